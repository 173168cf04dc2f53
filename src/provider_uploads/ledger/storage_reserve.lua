-- After storage_functions.lua: reserves storage for an upload. Twice is once.
--
-- ARGV[1]  the ticket
-- ARGV[2]  its bytes
-- ARGV[3]  the account's limit in bytes
-- ARGV[4]  seconds that the file will be kept
-- Returns  the bytes that are missing; 0 when the reservation is made.
local storage = storage_at(KEYS[1], KEYS[2])
local missing = storage.missing(ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]))
if missing == 0 then storage.reserve(ARGV[1], ARGV[2], tonumber(ARGV[4])) end
return missing
