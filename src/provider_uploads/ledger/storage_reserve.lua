-- After storage_functions.lua: reserves storage for an upload. Twice is once.
--
-- ARGV[1]  the ticket
-- ARGV[2]  its bytes
-- ARGV[3]  the account's limit in bytes
-- ARGV[4]  seconds that the file will be kept
-- Returns  the bytes that are missing; 0 when the reservation is made.
local before = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
local missing = held() - before + tonumber(ARGV[2]) - tonumber(ARGV[3])
if missing > 0 then return missing end
put(ARGV[1], ARGV[2], now + tonumber(ARGV[4]))
return 0
