-- Claims the bytes of an upload: one ticket at a time sends them, or has the file of them.
--
-- KEYS[1]  the claim: a string
-- ARGV[1]  the ticket that claims
-- ARGV[2]  the ticket whose claim is void, or ''
-- ARGV[3]  seconds to keep the claim
-- Returns  the ticket that has the claim now.
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] and owner ~= ARGV[2] then return owner end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
return ARGV[1]
