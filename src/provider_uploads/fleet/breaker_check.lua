-- After breaker_functions.lua: says whether to ask the provider. Returns {seconds to wait, failures}.
local state = redis.call('HMGET', KEYS[1], 'failures', 'openings', 'probe_at')
local failures = tonumber(state[1] or '0')
if failures < threshold then return {'0', failures} end
local left = tonumber(state[3] or '0') - now()
if left > 0 then return {string.format('%.3f', left), failures} end
probe_after(tonumber(state[2] or '1'))
return {'0', failures}
