-- After upload_functions.lua: writes a new upload, which enters the lists of uploads, and its
-- message, if it has one of its own, the queue; all or nothing.
--
-- KEYS[1], KEYS[2], ARGV[1]  as in upload_write.lua
-- KEYS[3]  all uploads: a sorted set of tickets by the time they were submitted
-- KEYS[4]  those of its owner; KEYS[3] again when it has none
-- KEYS[5]  the queue: a list
-- ARGV[2]  the ticket
-- ARGV[3]  seconds to keep it
-- ARGV[4]  the message, or ''
-- ARGV[5]  '1' to leave an upload alone that is there already
-- Returns  what upload_write.lua returns, or nil when it was there.
if ARGV[5] == '1' and redis.call('EXISTS', KEYS[1]) == 1 then return false end
local clock = redis.call('TIME')
local submitted = clock[1] + clock[2] / 1000000
for i = 3, 4 do
  redis.call('ZADD', KEYS[i], string.format('%.6f', submitted), ARGV[2])
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', submitted - ARGV[3])
  redis.call('EXPIRE', KEYS[i], ARGV[3])
end
if ARGV[4] ~= '' then redis.call('LPUSH', KEYS[5], ARGV[4]) end
return write(KEYS[1], KEYS[2], ARGV[1])
