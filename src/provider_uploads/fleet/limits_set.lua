-- Sets a rate for the fleet; reservations and a cool-down of the permits it concerns end.
--
-- KEYS[1]   the rates that were set: a hash
-- KEYS[2…]  the permits concerned
-- ARGV[1]   the field to set: "<work>" or "<profile>:<work>"
-- ARGV[2]   the rate a minute; 0: no limit; a negative one: paused; '': the tier's own
-- ARGV[3…]  fields that no longer count
local before = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if ARGV[2] == '' then redis.call('HDEL', KEYS[1], ARGV[1])
else redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
local changed = before ~= ARGV[2]
for n = 3, #ARGV do changed = redis.call('HDEL', KEYS[1], ARGV[n]) == 1 or changed end
-- Every worker passes a change on; the first one begins the permits anew, the others change nothing.
for n = 2, #KEYS do
  local held = redis.call('HMGET', KEYS[n], 'until', 'share')
  if redis.call('EXISTS', KEYS[n]) == 1 and (changed or held[1] or held[2]) then
    redis.call('HINCRBY', KEYS[n], 'epoch', 1)
    redis.call('HDEL', KEYS[n], 'next', 'used', 'until', 'share', 'share_at')
  end
end
