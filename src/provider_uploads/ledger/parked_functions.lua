-- Shared by the scripts about parked polls: defines leave(ticket), which puts the message of a
-- parked poll into its queue; true if it was parked. So a ticket is in one place or the other.
--
-- KEYS[1]  a profile's parked tickets: a sorted set by the time of their next poll
-- KEYS[2]  the same by the time of their last poll
-- KEYS[3]  what a watcher must know of each: a hash
-- KEYS[4]  the message of each poll: a hash
-- KEYS[5]  the queue: a list
local function leave(ticket)
  local message = redis.call('HGET', KEYS[4], ticket)
  redis.call('ZREM', KEYS[1], ticket)
  redis.call('ZREM', KEYS[2], ticket)
  redis.call('HDEL', KEYS[3], ticket)
  redis.call('HDEL', KEYS[4], ticket)
  if message then redis.call('LPUSH', KEYS[5], message) end
  return message and true
end
