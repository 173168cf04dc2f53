-- Changes a batch's row, if it is in one of the stages it may be changed in.
--
-- KEYS[1]  the row: a hash; what else is kept of the batch has its key and an ending
-- KEYS[2]  the open batches: a sorted set of tickets by the time of their last change
-- KEYS[3]  all batches: a sorted set of tickets by the time they were submitted
-- KEYS[4]  its notifications: they live as long
-- ARGV[1]  the change as JSON, as in upload_write.lua
-- ARGV[2]  the ticket
-- ARGV[3]  the channel that tells of changes
-- ARGV[4]  for a new batch: '1' to leave alone one that is there already, else ''
-- Returns  the time on Redis's clock, or nil when the row is in no stage of "from".
--
-- A batch is open while it has not ended, and after its end while something of it that nobody wants
-- is at the provider.
local change = cjson.decode(ARGV[1])
local stage = redis.call('HGET', KEYS[1], 'stage')
if change.from ~= cjson.null then
  local allowed = false
  for _, one in ipairs(change.from) do allowed = allowed or one == stage end
  if not allowed then return false end
elseif stage and ARGV[4] == '1' then
  return false
end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
if not stage then
  redis.call('ZADD', KEYS[3], string.format('%.6f', now), ARGV[2])
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - 10 * change.ttl)
end
for field, offset in pairs(change.stamp) do
  redis.call('HSET', KEYS[1], field, string.format('%.6f', now + offset))
end
for field, value in pairs(change.set) do redis.call('HSET', KEYS[1], field, value) end
for _, field in ipairs(change.unset) do redis.call('HDEL', KEYS[1], field) end
for _, field in ipairs(change.count) do redis.call('HINCRBY', KEYS[1], field, 1) end
for _, ending in ipairs({'', ':input', ':files', ':results'}) do
  redis.call('EXPIRE', KEYS[1] .. ending, change.ttl)
end
redis.call('EXPIRE', KEYS[4], change.ttl)
local row = redis.call('HMGET', KEYS[1], 'stage', 'at_provider')
local living = row[1] == 'QUEUED' or row[1] == 'RUNNING' or row[1] == 'COLLECTING'
if living or row[2] == 'present' then
  redis.call('ZADD', KEYS[2], now, ARGV[2])
else
  redis.call('ZREM', KEYS[2], ARGV[2])
end
redis.call('PUBLISH', ARGV[3], row[1])
return string.format('%.6f', now)
