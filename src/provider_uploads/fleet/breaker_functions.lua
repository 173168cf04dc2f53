-- Shared by the circuit breaker's scripts: defines now(), probe_after(openings), threshold.
--
-- KEYS[1]  a profile's breaker: a hash of failures, openings, opened_at and probe_at
-- ARGV[1]  consecutive failures that open it
-- ARGV[2]  seconds to the next probe after each opening (JSON)
local function now()
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end
local function probe_after(openings)
  local gaps = cjson.decode(ARGV[2])
  local at = now() + gaps[math.min(openings, #gaps)]
  redis.call('HSET', KEYS[1], 'probe_at', string.format('%.6f', at))
end
local threshold = tonumber(ARGV[1])
