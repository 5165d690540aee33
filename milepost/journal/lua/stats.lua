-- stats(kept, stages[key, stage, slots])
-- Writes this bridge's statistics of stages, with the time, and removes the names of statistics that have expired. A
-- full Redis refuses it.
local time = now()
for _, row in ipairs(stages) do
  redis.call('SET', row.key, '{"at":' .. whole(time) .. ',"stage":' .. cjson.encode(row.stage) .. ',"slots":'
    .. row.slots .. '}', 'PX', kept)
  redis.call('ZADD', STATS, whole(time + kept), row.key)
end
redis.call('ZREMRANGEBYSCORE', STATS, '-inf', whole(time - 1))
