-- Takes note of jobs that have ended: what they leave is room for others.
--
-- KEYS[1]   our open jobs
-- KEYS[2]   the tokens of our open jobs for the model
-- KEYS[3]   the open jobs of the account
-- KEYS[4]   what the service said when it had no room for the model's tokens
-- KEYS[5]   when a job last left room for them
-- ARGV[1]   seconds to remember that
-- ARGV[2..] the jobs' names
-- Returns   1 if one of them was open until now, else 0
local names = {unpack(ARGV, 2)}
local ended = redis.call('SREM', KEYS[1], unpack(names))
ended = ended + redis.call('HDEL', KEYS[2], unpack(names))
ended = ended + redis.call('SREM', KEYS[3], unpack(names))
if ended == 0 then return 0 end
local time = redis.call('TIME')
redis.call('SET', KEYS[5], string.format('%.6f', time[1] + time[2] / 1000000), 'EX', ARGV[1])
redis.call('DEL', KEYS[4])
return 1
