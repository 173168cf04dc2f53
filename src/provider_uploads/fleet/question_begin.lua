-- After limits_functions.lua: begins to ask a question, if its files, its lease and a permit allow
-- it now. Else nothing changes, and the first that does not allow it is named.
--
-- KEYS[1]   the question's lease
-- KEYS[2]   the profile's permits for questions
-- KEYS[3]   the rates that were set
-- KEYS[4..] the rows of its uploads
-- ARGV[1]   the lease's token
-- ARGV[2]   milliseconds to hold it
-- ARGV[3]   the profile
-- ARGV[4]   the work
-- ARGV[5]   its tier's rate, as permits_of takes it
-- ARGV[6]   the token of a permit that was taken before, or ''
-- Returns   {what does not allow it ('': begun), a number about it, the permit's token, rows}
--             unknown, ended, files: the number is the upload's, from 0; of an ended one, its row
--             leased:                0
--             permit:                seconds until there is one
--             '':                    0, and the rows of all uploads
local rows, waiting = {}, nil
for at = 4, #KEYS do
  local stage = redis.call('HGET', KEYS[at], 'stage')
  if not stage then return {'unknown', tostring(at - 4), '', rows} end
  if stage == 'QUEUED' or stage == 'UPLOADING' or stage == 'PROCESSING' then
    waiting = waiting or at
  elseif stage ~= 'ACTIVE' then
    return {'ended', tostring(at - 4), '', {redis.call('HGETALL', KEYS[at])}}
  end
end
if waiting then return {'files', tostring(waiting - 4), '', rows} end
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return {'leased', '0', '', rows} end
local token = ARGV[6]
if token == '' then
  local wait
  wait, token = permits_of(KEYS[2], KEYS[3], ARGV[3], ARGV[4], ARGV[5]).take('', 0, 0)
  if wait > 0 then return {'permit', string.format('%.6f', wait), '', rows} end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
for at = 4, #KEYS do rows[at - 3] = redis.call('HGETALL', KEYS[at]) end
return {'', '0', token, rows}
