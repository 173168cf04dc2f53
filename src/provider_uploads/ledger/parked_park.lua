-- Parks an upload's next poll where many of its profile wait; else counts it among the few that
-- wait by countdown. A message that has been overtaken parks nothing.
--
-- KEYS[1]  the profile's parked tickets: a sorted set by the time of their next poll
-- KEYS[2]  the same by the time of their last poll
-- KEYS[3]  what a watcher must know of each: a hash
-- KEYS[4]  the message of each poll: a hash
-- KEYS[5]  those that wait by countdown: a sorted set of tickets by its end
-- KEYS[6]  the profiles that have had parked polls: a set
-- KEYS[7]  the upload's row
-- ARGV[1]  the ticket
-- ARGV[2]  the profile
-- ARGV[3]  seconds until the next poll
-- ARGV[4]  the poll that was claimed last: its number ('': none yet)
-- ARGV[5]  and its delivery tag
-- ARGV[6]  so many have to wait
-- ARGV[7]  what a watcher must know
-- ARGV[8]  the message; '': only say whether it would be parked
-- ARGV[9]  seconds to keep all this
-- Returns  1 when it is parked, or would be.
local ticket = ARGV[1]
local row = redis.call('HMGET', KEYS[7], 'stage', 'look', 'tag', 'deadline_at')
if row[1] ~= 'PROCESSING' or (row[2] or '') ~= ARGV[4] or (row[3] or '') ~= ARGV[5] then return 0 end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local due = string.format('%.6f', now + ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now)
redis.call('ZREM', KEYS[5], ticket)
if redis.call('ZCARD', KEYS[1]) + redis.call('ZCARD', KEYS[5]) + 1 < tonumber(ARGV[6]) then
  redis.call('ZADD', KEYS[5], due, ticket)
  redis.call('EXPIRE', KEYS[5], ARGV[9])
  return 0
end
if ARGV[8] == '' then return 1 end
redis.call('ZADD', KEYS[1], due, ticket)
redis.call('ZADD', KEYS[2], row[4] or due, ticket)
redis.call('HSET', KEYS[3], ticket, ARGV[7])
redis.call('HSET', KEYS[4], ticket, ARGV[8])
for n = 1, 4 do redis.call('EXPIRE', KEYS[n], ARGV[9]) end
redis.call('SADD', KEYS[6], ARGV[2])
return 1
