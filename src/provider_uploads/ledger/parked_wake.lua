-- After parked_functions.lua: sends the polls of tickets, those of them that are parked.
--
-- KEYS[6…]  for each ticket, where to leave what was seen of its file
-- ARGV[1]   seconds to keep that
-- ARGV[2…]  ticket and what was seen ('': nothing), again and again
-- Returns   how many were sent.
local sent = 0
for n = 2, #ARGV, 2 do
  local key = KEYS[6 + (n - 2) / 2]
  if leave(ARGV[n]) then
    if ARGV[n + 1] ~= '' then redis.call('SET', key, ARGV[n + 1], 'EX', ARGV[1]) end
    sent = sent + 1
  end
end
return sent
