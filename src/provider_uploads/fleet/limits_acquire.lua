-- After limits_functions.lua: takes a permit, or one that was reserved before.
--
-- KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]  what permits_of takes
-- ARGV[4]  the token of a reservation, or ''
-- ARGV[5]  seconds ahead that a permit may be reserved; '': any
-- ARGV[6]  intervals ahead that it may be reserved
-- Returns  {seconds to wait, the token ('': nothing is reserved), the interval in seconds,
--           why everybody waits, if they do}
local permits = permits_of(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
local wait, token, why = permits.take(ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]))
local interval = permits.rate < 0 and '0' or string.format('%.6f', permits.interval)
return {string.format('%.6f', wait), token, interval, why}
