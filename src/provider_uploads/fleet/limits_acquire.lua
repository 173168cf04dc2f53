-- After limits_functions.lua: takes a permit, or one that was reserved before.
--
-- ARGV[4]  the token of a reservation, or ''
-- ARGV[5]  seconds ahead that a permit may be reserved; '': any
-- ARGV[6]  intervals ahead that it may be reserved
-- Returns  {seconds to wait, the token ('': nothing is reserved), the interval in seconds,
--           why everybody waits, if they do}
--
-- Permits used later than MARGIN allows, as by a worker that was away, would be a burst together
-- with those in time. Late permits use only unused capacity; the rest take the next one.
local epoch, at = string.match(ARGV[4], '^(%d+):(.+)$')
local wait = math.max(permits.on_hold - now, 0)
local token, why = '', ''
if wait > 0 then why = redis.call('HGET', KEYS[1], 'why') or '' end
local late = interval > 0 and now - (tonumber(at) or now) > 60 * MARGIN
if epoch == permits.epoch and not (late and permits.used > now + 60 * MARGIN) then
  token, wait = ARGV[4], math.max(wait, tonumber(at) - now)
elseif interval == 0 then
  if wait == 0 then token = permits.epoch .. ':0' end
else
  local begin = math.max(permits.next - (burst - 1) * interval, now, permits.on_hold)
  wait = begin - now
  local ahead = tonumber(ARGV[5])
  if ahead == nil or wait <= math.max(ahead, tonumber(ARGV[6]) * interval) then
    token = permits.epoch .. ':' .. string.format('%.6f', begin)
    local next = math.max(permits.next, begin) + interval
    redis.call('HSET', KEYS[1], 'next', string.format('%.6f', next))
  end
end
if wait <= 0 and interval > 0 then
  local used = math.max(permits.used, now) + interval
  redis.call('HSET', KEYS[1], 'used', string.format('%.6f', used))
end
if interval > 0 then redis.call('EXPIRE', KEYS[1], KEPT_S) end
return {string.format('%.6f', wait), token, string.format('%.6f', interval), why}
