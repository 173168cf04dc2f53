-- After breaker_functions.lua: says whether to ask the provider.
--
-- KEYS[1], ARGV[1], ARGV[2]  what breaker_at takes
-- Returns  {seconds to wait, failures}
local breaker = breaker_at(KEYS[1], tonumber(ARGV[1]), ARGV[2])
local wait = breaker.wait()
if wait > 0 then return {string.format('%.3f', wait), breaker.failures} end
breaker.ask()
return {'0', breaker.failures}
