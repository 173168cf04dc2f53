-- After upload_functions.lua: lets a QUEUED upload use the file of another one, if that one is ACTIVE
-- and has not released it. A release marks the row first, so a file that may be deleted by now
-- cannot be taken.
--
-- KEYS[1], KEYS[2], ARGV[1]  as in upload_write.lua
-- KEYS[3]  the row of the upload that sent the file
-- KEYS[4]  the tickets that share the file: a set
-- ARGV[2]  the ticket that sent the file
-- ARGV[3]  the ticket that takes it
-- ARGV[4]  seconds to keep the set
-- Returns  what upload_write.lua returns, or nil when the file cannot be taken.
local sender = redis.call('HMGET', KEYS[3], 'stage', 'let_go_at')
local taker = redis.call('HGET', KEYS[1], 'stage')
if sender[1] ~= 'ACTIVE' or sender[2] or taker ~= 'QUEUED' then return false end
redis.call('SADD', KEYS[4], ARGV[2], ARGV[3])
redis.call('EXPIRE', KEYS[4], ARGV[4])
return write(KEYS[1], KEYS[2], ARGV[1])
