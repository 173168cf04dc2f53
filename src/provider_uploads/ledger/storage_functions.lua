-- Shared by the scripts that reserve storage: defines storage_at(files, bytes).
--
-- files  a profile's files: the key of a sorted set of tickets by the time they expire
-- bytes  their bytes: a hash by ticket, with the sum under "ours" and what others put there under
--        "others"
local function storage_at(files, bytes)
  local storage = {}
  local time = redis.call('TIME')
  local now = time[1] + time[2] / 1000000

  function storage.drop(ticket)
    local size = redis.call('HGET', bytes, ticket)
    if size then
      redis.call('HINCRBY', bytes, 'ours', -size)
      redis.call('HDEL', bytes, ticket)
    end
    redis.call('ZREM', files, ticket)
  end

  function storage.put(ticket, size, expires_at)
    storage.drop(ticket)
    redis.call('HSET', bytes, ticket, size)
    redis.call('HINCRBY', bytes, 'ours', size)
    redis.call('ZADD', files, expires_at, ticket)
  end

  function storage.held()
    for _, ticket in ipairs(redis.call('ZRANGEBYSCORE', files, '-inf', now)) do
      storage.drop(ticket)
    end
    local sums = redis.call('HMGET', bytes, 'ours', 'others')
    return tonumber(sums[1] or '0') + tonumber(sums[2] or '0')
  end

  -- The bytes that an upload of a size lacks; none where they are reserved for it, or can be.
  function storage.missing(ticket, size, limit)
    local before = tonumber(redis.call('HGET', bytes, ticket) or '0')
    return math.max(storage.held() - before + size - limit, 0)
  end

  function storage.reserve(ticket, size, kept_s) storage.put(ticket, size, now + kept_s) end

  return storage
end
