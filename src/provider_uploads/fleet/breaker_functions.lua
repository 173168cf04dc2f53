-- Shared by the circuit breaker's scripts: defines breaker_at(key, threshold, gaps).
--
-- key        a profile's breaker: a hash of failures, openings, opened_at and probe_at
-- threshold  consecutive failures that open it
-- gaps       seconds to the next probe after each opening (JSON)
local function breaker_at(key, threshold, gaps)
  local breaker = {}
  local state = redis.call('HMGET', key, 'failures', 'openings', 'probe_at')
  local time = redis.call('TIME')
  breaker.failures, breaker.now = tonumber(state[1] or '0'), time[1] + time[2] / 1000000
  breaker.open = breaker.failures >= threshold

  -- Seconds until somebody may ask; 0: now.
  function breaker.wait()
    if not breaker.open then return 0 end
    return math.max(tonumber(state[3] or '0') - breaker.now, 0)
  end

  function breaker.probe_after(openings)
    local waits = cjson.decode(gaps)
    local at = breaker.now + waits[math.min(openings, #waits)]
    redis.call('HSET', key, 'probe_at', string.format('%.6f', at))
  end

  -- Whoever asks now, of one that is open, is its probe.
  function breaker.ask()
    if breaker.open then breaker.probe_after(tonumber(state[2] or '1')) end
  end

  return breaker
end
