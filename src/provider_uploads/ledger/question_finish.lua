-- Ends a question that has no end yet, with all that ends at the same time.
--
-- KEYS[1]  the question
-- KEYS[2]  the questions without an end
-- KEYS[3]  its lease
-- KEYS[4]  Celery's result, and the channel that tells of it
-- ARGV[1]  its ticket
-- ARGV[2]  "answer" or "error"
-- ARGV[3]  that, as JSON
-- ARGV[4]  seconds to keep the question
-- ARGV[5]  the lease's token, or '' where there is none to release
-- ARGV[6]  the result as Celery stores it, or '' where there is none
-- ARGV[7]  seconds to keep it
-- Returns  1 if this was its end, else 0
if ARGV[5] ~= '' and redis.call('GET', KEYS[3]) == ARGV[5] then redis.call('DEL', KEYS[3]) end
redis.call('ZREM', KEYS[2], ARGV[1])
for _, said in ipairs(redis.call('HMGET', KEYS[1], 'answer', 'error')) do
  if said then return 0 end
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
if ARGV[6] ~= '' then
  redis.call('SETEX', KEYS[4], ARGV[7], ARGV[6])
  redis.call('PUBLISH', KEYS[4], ARGV[6])
end
return 1
