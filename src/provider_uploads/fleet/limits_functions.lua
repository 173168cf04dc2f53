-- Shared by the rate-limit scripts. Permits are spaced by the generic cell rate algorithm: one
-- number, the time of the next permit. After a 429 a factor lowers the rate; it recovers slowly.
--
-- KEYS[1]  one profile's permits for one kind of work: a hash
--            next      the time of the next permit
--            used      the same, of the permits that were used, in time or late
--            epoch     raised when reservations become void
--            until     the end of a cool-down
--            why       its reason
--            share     the factor of the rate, at the time share_at
--            streak    cool-downs in a row
-- KEYS[2]  the rates that were set: a hash by "<profile>:<work>" or "<work>"
-- ARGV[1]  the profile
-- ARGV[2]  the kind of work
-- ARGV[3]  the tier's rate a minute; 0: no limit
--
-- Defines now, permits, rate, factor, burst, interval (seconds; 0: no limit), spacing(factor).
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local said = redis.call('HMGET', KEYS[1], 'next', 'epoch', 'until', 'share', 'share_at', 'used')
local permits = {next = tonumber(said[1] or '0'), epoch = said[2] or '0'}
permits.on_hold, permits.used = tonumber(said[3] or '0'), tonumber(said[6] or '0')
local rate = redis.call('HGET', KEYS[2], ARGV[1] .. ':' .. ARGV[2])
  or redis.call('HGET', KEYS[2], ARGV[2]) or ARGV[3]
rate = tonumber(rate)
local factor = 1
if said[4] then
  local recovered = math.max(now - tonumber(said[5]), 0) / 60 * RECOVERY
  factor = math.min(tonumber(said[4]) + recovered, 1)
end
local burst, interval = 1, 0
if rate > 0 and factor == 1 then burst = math.max(math.floor(rate * BURST), 1) end
local function spacing(part)
  if rate == 0 then return 0 end
  return 60 / math.max(rate * part * (1 - MARGIN) - (burst - 1), rate * LEAST / 2)
end
interval = spacing(factor)
