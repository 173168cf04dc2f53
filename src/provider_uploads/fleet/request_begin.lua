-- After limits_functions.lua and breaker_functions.lua: takes a permit for a request, or one that
-- was reserved before, unless the profile's breaker is open: then nothing changes.
--
-- KEYS[1]  the profile's permits for this work
-- KEYS[2]  the rates that were set
-- KEYS[3]  the profile's breaker
-- ARGV[1]  the profile
-- ARGV[2]  the work
-- ARGV[3]  its tier's rate, as permits_of takes it
-- ARGV[4]  the token of a reservation, or ''
-- ARGV[5]  seconds ahead that a permit may be reserved; '': any
-- ARGV[6]  consecutive failures that open the breaker
-- ARGV[7]  seconds to the next probe after each opening (JSON)
-- Returns  {seconds to wait for the permit, its token ('': nothing is reserved), seconds until
--           somebody may ask, failures of the breaker}
local breaker = breaker_at(KEYS[3], tonumber(ARGV[6]), ARGV[7])
local outage, wait, token = breaker.wait(), 0, ''
if outage == 0 then
  local permits = permits_of(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
  wait, token = permits.take(ARGV[4], tonumber(ARGV[5]), 0)
  if wait <= 0 then breaker.ask() end
end
return {string.format('%.6f', wait), token, string.format('%.6f', outage), breaker.failures}
