-- Takes an upload out of those that share a file. One of the others inherits its claim, so that
-- the next upload of the same bytes finds the file.
--
-- KEYS[1]  the tickets that share the file: a set
-- KEYS[2]  the claim
-- ARGV[1]  the ticket that leaves
-- Returns  how many still share the file.
redis.call('SREM', KEYS[1], ARGV[1])
if redis.call('GET', KEYS[2]) == ARGV[1] then
  local heir = redis.call('SRANDMEMBER', KEYS[1])
  if heir then redis.call('SET', KEYS[2], heir, 'KEEPTTL') else redis.call('DEL', KEYS[2]) end
end
return redis.call('SCARD', KEYS[1])
