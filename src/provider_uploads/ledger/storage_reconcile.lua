-- After storage_functions.lua: sets reservations by what a listing said.
--
-- ARGV  ticket, bytes and time of expiry, again and again; bytes '': the file is gone.
for n = 1, #ARGV, 3 do
  if ARGV[n + 1] == '' then drop(ARGV[n]) else put(ARGV[n], ARGV[n + 1], ARGV[n + 2]) end
end
