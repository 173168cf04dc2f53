-- After upload_functions.lua, storage_functions.lua, limits_functions.lua, breaker_functions.lua:
-- begins an attempt to send an upload, if row, lease, breaker, storage and permit all allow it
-- now. Else nothing changes, and the first that does not allow it is named.
--
-- KEYS[1]  the row
-- KEYS[2]  the open uploads
-- KEYS[3]  the upload's lease
-- KEYS[4]  the profile's breaker
-- KEYS[5]  the profile's permits for uploads
-- KEYS[6]  the rates that were set
-- KEYS[7]  the profile's files
-- KEYS[8]  their bytes
-- ARGV[1]  {"ticket", "lease": token, "lease_ms",
--           "admission": null to take the lease only, or
--             {"profile", "work", "rate": as permits_of takes it, "permit": token or '',
--              "failures", "gaps": as breaker_at takes them,
--              "storage": null or {"bytes", "limit", "kept_s"}}}
-- ARGV[2]  '', or the change that writes down that the bytes are on their way, as in
--          upload_functions.lua: made if the row is in the stage that it names
-- Returns  {what does not allow it ('': begun), a number about it, the time, the permit's token,
--           failures of the breaker, the row as it was}
local wanted = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now = string.format('%.6f', time[1] + time[2] / 1000000)
local row = redis.call('HGETALL', KEYS[1])
if #row == 0 then return {'unknown', '0', now, '', 0, row} end
local stage = redis.call('HGET', KEYS[1], 'stage')
if stage ~= 'QUEUED' and stage ~= 'UPLOADING' then return {'moved_on', '0', now, '', 0, row} end
local holder = redis.call('GET', KEYS[3])
if holder and holder ~= wanted.lease then return {'leased', '0', now, '', 0, row} end
local admission, token, failures = wanted.admission, '', 0
if admission ~= cjson.null then
  local breaker = breaker_at(KEYS[4], admission.failures, admission.gaps)
  failures = breaker.failures
  if breaker.wait() > 0 then
    return {'outage', string.format('%.3f', breaker.wait()), now, '', failures, row}
  end
  local storage, asked = storage_at(KEYS[7], KEYS[8]), admission.storage
  if asked ~= cjson.null then
    local missing = storage.missing(wanted.ticket, asked.bytes, asked.limit)
    if missing > 0 then
      return {'storage', string.format('%.0f', missing), now, '', failures, row}
    end
  end
  token = admission.permit
  if token == '' then
    local permits = permits_of(KEYS[5], KEYS[6], admission.profile, admission.work, admission.rate)
    local wait
    wait, token = permits.take('', 0, 0)
    if wait > 0 then return {'permit', string.format('%.6f', wait), now, '', failures, row} end
  end
  if asked ~= cjson.null then storage.reserve(wanted.ticket, asked.bytes, asked.kept_s) end
  breaker.ask()
end
redis.call('SET', KEYS[3], wanted.lease, 'PX', wanted.lease_ms)
if ARGV[2] ~= '' then write(KEYS[1], KEYS[2], ARGV[2]) end
return {'', '0', now, token, failures, row}
