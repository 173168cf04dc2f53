-- After limits_functions.lua and breaker_functions.lua: begins a poll, if row, breaker and permit
-- allow it now; one that a watcher has just made needs neither of the last two.
--
-- A lower attempt number than the row's, or the same number under another delivery tag, belongs to
-- a copy of a message that is already being handled.
--
-- KEYS[1]  the row
-- KEYS[2]  what a watcher saw of the file
-- KEYS[3]  the profile's breaker
-- KEYS[4]  the profile's permits for polls
-- KEYS[5]  the rates that were set
-- ARGV[1]  {"attempt", "tag": of the message, "seen": whether to look for what a watcher saw,
--           "profile", "work", "rate": as permits_of takes it, "permit": token or '',
--           "soon_s": a permit as near as that is reserved at once,
--           "failures", "gaps": as breaker_at takes them}
-- Returns  {go | answer | stale: what the message may do, or permit | outage: what does not allow
--           it; seconds to wait for that, or how long an outage lasts in which to go all the same;
--           the time; the permit's token; why everybody waits; failures of the breaker; what was
--           seen, or ''; the row}
--          Without a permit only that is reserved; in an outage the poll is claimed, and not counted.
--          The poll at the deadline waits for no more than a permit that is reserved for it.
local wanted = cjson.decode(ARGV[1])
local row = redis.call('HMGET', KEYS[1], 'stage', 'look', 'tag', 'deadline_at')
local stage, claimed, tag = row[1], tonumber(row[2] or '-1'), row[3] or ''
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local token, why, failures, outage, seen = '', '', 0, 0, ''

local function answer(word, wait)
  return {word, string.format('%.6f', wait or 0), string.format('%.6f', now), token, why, failures,
    seen, redis.call('HGETALL', KEYS[1])}
end

local mine = claimed == wanted.attempt and tag == wanted.tag
if stage ~= 'PROCESSING' then
  local unanswered = mine or (stage == 'CANCELLED' and wanted.attempt > claimed)
  return answer(unanswered and 'answer' or 'stale')
end
if not mine and wanted.attempt <= claimed then return answer('stale') end

local function claim()
  redis.call('HSET', KEYS[1], 'look', string.format('%d', wanted.attempt), 'tag', wanted.tag)
end

if wanted.seen then seen = redis.call('GET', KEYS[2]) or '' end
if seen == '' then
  local left = row[4] and math.max(tonumber(row[4]) - now, 0)
  local breaker = breaker_at(KEYS[3], wanted.failures, wanted.gaps)
  failures, outage = breaker.failures, breaker.wait()
  if outage > 0 and left ~= 0 then
    claim()
    return answer('outage', outage)
  end
  local permits = permits_of(KEYS[4], KEYS[5], wanted.profile, wanted.work, wanted.rate)
  local wait
  wait, token, why = permits.take(wanted.permit, wanted.soon_s, 0)
  if wait > 0 and token == '' then wait, token, why = permits.take('', left, 0) end
  if wait > 0 and (left ~= 0 or token ~= '') then return answer('permit', wait) end
  if outage == 0 then breaker.ask() end
end
claim()
redis.call('HINCRBY', KEYS[1], 'polls', 1)
return answer('go', outage)
