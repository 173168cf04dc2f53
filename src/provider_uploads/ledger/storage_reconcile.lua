-- After storage_functions.lua: sets reservations by what a listing said.
--
-- ARGV  ticket, bytes and time of expiry, again and again; bytes '': the file is gone.
local storage = storage_at(KEYS[1], KEYS[2])
for n = 1, #ARGV, 3 do
  if ARGV[n + 1] == '' then storage.drop(ARGV[n])
  else storage.put(ARGV[n], ARGV[n + 1], ARGV[n + 2]) end
end
