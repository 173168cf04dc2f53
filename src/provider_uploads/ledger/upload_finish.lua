-- After upload_functions.lua: ends an attempt, or the waiting for ACTIVE.
--
-- KEYS[1]  the row
-- KEYS[2]  the open uploads
-- KEYS[3]  the upload's lease
-- KEYS[4]  Celery's result, and the channel that tells of it
-- ARGV[1]  the change as JSON
-- ARGV[2]  the lease's token, or '' where there is none to release
-- ARGV[3]  the result as Celery stores it, or '' where there is none yet
-- ARGV[4]  seconds to keep it
-- Returns  the time on Redis's clock, or nil when the row is in no stage of "from".
if ARGV[2] ~= '' and redis.call('GET', KEYS[3]) == ARGV[2] then redis.call('DEL', KEYS[3]) end
local now = write(KEYS[1], KEYS[2], ARGV[1])
if now and ARGV[3] ~= '' then
  redis.call('SETEX', KEYS[4], ARGV[4], ARGV[3])
  redis.call('PUBLISH', KEYS[4], ARGV[3])
end
return now
