-- Takes note of a job that the service had no room for: others wait, unless one that has ended
-- since left room.
--
-- KEYS      as in batch_ended.lua
-- ARGV[1]   the job's name
-- ARGV[2]   when it was created, in seconds since 1970
-- ARGV[3]   what the service said
-- ARGV[4]   milliseconds to wait for room
-- Returns   1 if others wait for room now, else 0
redis.call('SREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('SREM', KEYS[3], ARGV[1])
if tonumber(redis.call('GET', KEYS[5]) or 0) >= tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[4], ARGV[3], 'PX', ARGV[4])
return 1
