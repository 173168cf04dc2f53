-- Claims a poll for one message. A lower attempt number than the row's, or the same number under
-- another delivery tag, belongs to a copy of a message that is already being handled.
--
-- KEYS[1]  the row
-- ARGV[1]  the attempt's number
-- ARGV[2]  its delivery tag
-- Returns  {claim result: go | answer | stale, the time on Redis's clock, the row}
local row = redis.call('HMGET', KEYS[1], 'stage', 'look', 'tag')
local stage, claimed, tag = row[1], tonumber(row[2] or '-1'), row[3] or ''
local mine = claimed == tonumber(ARGV[1]) and tag == ARGV[2]
local result = 'stale'
if stage == 'PROCESSING' then
  if mine or tonumber(ARGV[1]) > claimed then
    redis.call('HSET', KEYS[1], 'look', ARGV[1], 'tag', ARGV[2])
    redis.call('HINCRBY', KEYS[1], 'polls', 1)
    result = 'go'
  end
elseif mine or (stage == 'CANCELLED' and tonumber(ARGV[1]) > claimed) then
  result = 'answer'
end
local time = redis.call('TIME')
return {result, string.format('%.6f', time[1] + time[2] / 1000000), redis.call('HGETALL', KEYS[1])}
