-- Changes an upload's row, if it is in one of the stages it may be changed in.
--
-- KEYS[1]  the row: a hash
-- KEYS[2]  the open uploads: a sorted set of row keys by the time of their last change
-- ARGV[1]  the change as JSON:
--            {"ttl": seconds, "from": [stages], or null for a new row,
--             "stamp": {field: seconds from now}, "set": {field: text},
--             "unset": [fields], "count": [fields to add 1 to]}
-- Returns  the time on Redis's clock, or nil when the row is in no stage of "from".
--
-- An upload is open while it has not ended, and after its end while a copy that nobody wants is
-- at the provider. What is wanted: see UploadState.copy_wanted, which decides the same in Python.
local change = cjson.decode(ARGV[1])
if change.from ~= cjson.null then
  local stage, allowed = redis.call('HGET', KEYS[1], 'stage'), false
  for _, one in ipairs(change.from) do allowed = allowed or one == stage end
  if not allowed then return false end
end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
for field, offset in pairs(change.stamp) do
  redis.call('HSET', KEYS[1], field, string.format('%.6f', now + offset))
end
for field, value in pairs(change.set) do redis.call('HSET', KEYS[1], field, value) end
for _, field in ipairs(change.unset) do redis.call('HDEL', KEYS[1], field) end
for _, field in ipairs(change.count) do redis.call('HINCRBY', KEYS[1], field, 1) end
redis.call('EXPIRE', KEYS[1], change.ttl)
local row = redis.call('HMGET', KEYS[1], 'stage', 'copy_at_provider', 'let_go_at')
local living = row[1] == 'QUEUED' or row[1] == 'UPLOADING' or row[1] == 'PROCESSING'
if living or ((row[1] ~= 'ACTIVE' or row[3]) and row[2] == 'present') then
  redis.call('ZADD', KEYS[2], now, KEYS[1])
else
  redis.call('ZREM', KEYS[2], KEYS[1])
end
redis.call('PUBLISH', KEYS[1], row[1])
return string.format('%.6f', now)
