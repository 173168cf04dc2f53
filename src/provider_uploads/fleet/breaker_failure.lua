-- After breaker_functions.lua: counts a failure.
--
-- KEYS[1], ARGV[1], ARGV[2]  what breaker_at takes
-- ARGV[3]  seconds after which failures are forgotten
-- ARGV[4]  '1' if the request was the probe
-- Returns  1 if the breaker is open now, else 0.
local threshold = tonumber(ARGV[1])
local breaker = breaker_at(KEYS[1], threshold, ARGV[2])
local failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
redis.call('EXPIRE', KEYS[1], ARGV[3])
if failures < threshold then return 0 end
if failures == threshold then
  redis.call('HSET', KEYS[1], 'opened_at', string.format('%.6f', breaker.now))
end
-- Requests that were under way when it opened say nothing new.
if failures == threshold or ARGV[4] == '1' then
  breaker.probe_after(redis.call('HINCRBY', KEYS[1], 'openings', 1))
end
return 1
