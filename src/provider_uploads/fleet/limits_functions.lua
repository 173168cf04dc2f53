-- Shared by the rate-limit scripts. Permits are spaced by the generic cell rate algorithm: one
-- number, the time of the next permit. After a 429 a factor lowers the rate; it recovers slowly.
--
-- Defines permits_of(key, rates, profile, work, tier_rate), which returns what there is now:
--   now, next, used, epoch, on_hold, why(), rate, factor, burst, interval (seconds; 0: no limit),
--   spacing(factor), take(held, ahead_s, ahead_permits)
--
-- key        one profile's permits for one kind of work: a hash
--              next      the time of the next permit
--              used      the same, of the permits that were used, in time or late
--              epoch     raised when reservations become void
--              until     the end of a cool-down
--              why       its reason
--              share     the factor of the rate, at the time share_at
--              streak    cool-downs in a row
-- rates      the rates that were set: a hash by "<profile>:<work>" or "<work>"
-- tier_rate  the tier's rate a minute; 0: no limit; a negative one: paused
local function permits_of(key, rates, profile, work, tier_rate)
  local time = redis.call('TIME')
  local said = redis.call('HMGET', key, 'next', 'epoch', 'until', 'share', 'share_at', 'used')
  local permits = {
    now = time[1] + time[2] / 1000000,
    next = tonumber(said[1] or '0'), epoch = said[2] or '0', on_hold = tonumber(said[3] or '0'),
    used = tonumber(said[6] or '0'), factor = 1, burst = 1,
  }
  local now = permits.now
  permits.rate = tonumber(redis.call('HGET', rates, profile .. ':' .. work)
    or redis.call('HGET', rates, work) or tier_rate)
  if said[4] then
    local recovered = math.max(now - tonumber(said[5]), 0) / 60 * RECOVERY
    permits.factor = math.min(tonumber(said[4]) + recovered, 1)
  end
  if permits.rate > 0 and permits.factor == 1 then
    permits.burst = math.max(math.floor(permits.rate * BURST), 1)
  end

  function permits.spacing(part)
    local rate = permits.rate
    if rate <= 0 then return 0 end
    return 60 / math.max(rate * part * (1 - MARGIN) - (permits.burst - 1), rate * LEAST / 2)
  end
  permits.interval = permits.spacing(permits.factor)

  -- Takes a permit, or the one with the token "held" that was reserved before. One further ahead
  -- than ahead_s seconds (nil: any) or ahead_permits intervals is not reserved.
  --
  -- Returns seconds to wait, the token ('': nothing is reserved), why everybody waits, if they do.
  --
  -- Permits used later than MARGIN allows, as by a worker that was away, would be a burst together
  -- with those in time. Late permits use only unused capacity; the rest take the next one.
  function permits.take(held, ahead_s, ahead_permits)
    if permits.rate < 0 then return PAUSED_S, '', 'paused' end
    local interval = permits.interval
    local epoch, at = string.match(held, '^(%d+):(.+)$')
    local wait = math.max(permits.on_hold - now, 0)
    local token, why = '', ''
    if wait > 0 then why = redis.call('HGET', key, 'why') or '' end
    local late = interval > 0 and now - (tonumber(at) or now) > 60 * MARGIN
    if epoch == permits.epoch and not (late and permits.used > now + 60 * MARGIN) then
      token, wait = held, math.max(wait, tonumber(at) - now)
    elseif interval == 0 then
      if wait == 0 then token = permits.epoch .. ':0' end
    else
      local begin = math.max(permits.next - (permits.burst - 1) * interval, now, permits.on_hold)
      wait = begin - now
      if ahead_s == nil or wait <= math.max(ahead_s, ahead_permits * interval) then
        token = permits.epoch .. ':' .. string.format('%.6f', begin)
        local next = math.max(permits.next, begin) + interval
        redis.call('HSET', key, 'next', string.format('%.6f', next))
      end
    end
    if wait <= 0 and interval > 0 then
      local used = math.max(permits.used, now) + interval
      redis.call('HSET', key, 'used', string.format('%.6f', used))
    end
    if interval > 0 then redis.call('EXPIRE', key, KEPT_S) end
    return wait, token, why
  end

  return permits
end
