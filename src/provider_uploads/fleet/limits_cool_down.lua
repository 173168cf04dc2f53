-- After limits_functions.lua: puts all permits on hold after a 429.
--
-- KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]  what permits_of takes
-- ARGV[4]  the token of the permit that was refused
-- ARGV[5]  seconds that the provider named, or ''
-- ARGV[6]  the least waits, one after another (JSON)
-- ARGV[7]  the reason
-- Returns  seconds on hold.
local permits = permits_of(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
local now, factor = permits.now, permits.factor
local epoch = string.match(ARGV[4], '^(%d+):') or permits.epoch
local waits = cjson.decode(ARGV[6])
local streak = tonumber(redis.call('HGET', KEYS[1], 'streak') or '0')
-- If the last wait was followed by as long without a 429, it was long enough.
if streak > 0 and now - permits.on_hold > waits[math.min(streak, #waits)] then streak = 0 end
-- Requests already under way when the cool-down began say nothing new, except how long to wait.
local first = epoch == permits.epoch
if first then
  streak = streak + 1
  factor = math.max(factor * BACK_OFF, LEAST)
  redis.call('HSET', KEYS[1], 'share', factor, 'streak', streak)
end
-- At least our own wait: a provider that names none, or a past moment, again and again must not
-- be asked again and again.
local own = waits[math.min(math.max(streak, 1), #waits)]
local on_hold = math.max(permits.on_hold, now + math.max(tonumber(ARGV[5]) or 0, own))
local text = string.format('%.6f', on_hold)
redis.call('HSET', KEYS[1], 'until', text, 'why', ARGV[7], 'share_at', text)
if first or on_hold > permits.on_hold then
  -- Reservations are void, or all of them would be due the moment the hold ends.
  redis.call('HINCRBY', KEYS[1], 'epoch', 1)
  local next = math.max(on_hold, now + permits.spacing(factor))
  redis.call('HSET', KEYS[1], 'next', string.format('%.6f', next))
end
redis.call('EXPIRE', KEYS[1], KEPT_S)
return string.format('%.6f', on_hold - now)
