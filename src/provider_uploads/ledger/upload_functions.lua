-- Shared by the scripts that change an upload's row: defines write(row, open, change).
--
-- row     the key of the row: a hash
-- open    the open uploads: a sorted set of row keys by the time of their last change
-- change  as JSON:
--           {"ttl": seconds, "from": [stages], or null for a new row,
--            "stamp": {field: seconds from now}, "set": {field: text},
--            "unset": [fields], "count": [fields to add 1 to],
--            "at": now on Redis's clock, where somebody has to know it beforehand}
-- Returns the time on Redis's clock, or false when the row is in no stage of "from".
--
-- An upload is open while it has not ended, and after its end while a copy that nobody wants is
-- at the provider. What is wanted: see UploadState.copy_wanted, which decides the same in Python.
local function write(row, open, text)
  local change = cjson.decode(text)
  if change.from ~= cjson.null then
    local stage, allowed = redis.call('HGET', row, 'stage'), false
    for _, one in ipairs(change.from) do allowed = allowed or one == stage end
    if not allowed then return false end
  end
  local time = redis.call('TIME')
  local now = change.at or time[1] + time[2] / 1000000
  for field, offset in pairs(change.stamp) do
    redis.call('HSET', row, field, string.format('%.6f', now + offset))
  end
  for field, value in pairs(change.set) do redis.call('HSET', row, field, value) end
  for _, field in ipairs(change.unset) do redis.call('HDEL', row, field) end
  for _, field in ipairs(change.count) do redis.call('HINCRBY', row, field, 1) end
  redis.call('EXPIRE', row, change.ttl)
  local row_is = redis.call('HMGET', row, 'stage', 'copy_at_provider', 'let_go_at')
  local stage = row_is[1]
  local living = stage == 'QUEUED' or stage == 'UPLOADING' or stage == 'PROCESSING'
  if living or ((stage ~= 'ACTIVE' or row_is[3]) and row_is[2] == 'present') then
    redis.call('ZADD', open, now, row)
  else
    redis.call('ZREM', open, row)
  end
  redis.call('PUBLISH', row, stage)
  return string.format('%.6f', now)
end
