-- Before upload_claim_poll.lua: claims a poll only where a watcher has left what it saw.
--
-- KEYS[1], ARGV[1], ARGV[2]  as in upload_claim_poll.lua
-- KEYS[2]  what was seen
-- Returns  what upload_claim_poll.lua returns, or nil.
if redis.call('EXISTS', KEYS[2]) == 0 then return false end
