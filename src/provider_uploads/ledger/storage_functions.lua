-- Shared by the storage scripts: defines now, drop(ticket), put(ticket, bytes, expires_at), held().
--
-- KEYS[1]  a profile's files: a sorted set of tickets by the time they expire
-- KEYS[2]  their bytes: a hash by ticket, with the sum under "ours" and what others put there
--          under "others"
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local function drop(ticket)
  local bytes = redis.call('HGET', KEYS[2], ticket)
  if bytes then
    redis.call('HINCRBY', KEYS[2], 'ours', -bytes)
    redis.call('HDEL', KEYS[2], ticket)
  end
  redis.call('ZREM', KEYS[1], ticket)
end
local function put(ticket, bytes, expires_at)
  drop(ticket)
  redis.call('HSET', KEYS[2], ticket, bytes)
  redis.call('HINCRBY', KEYS[2], 'ours', bytes)
  redis.call('ZADD', KEYS[1], expires_at, ticket)
end
local function held()
  for _, ticket in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do drop(ticket) end
  local sums = redis.call('HMGET', KEYS[2], 'ours', 'others')
  return tonumber(sums[1] or '0') + tonumber(sums[2] or '0')
end
