-- stats: leaves how stages did under this bridge, with the time, and forgets the names of what has expired. A full
-- Redis refuses it.
local stats = key()
local kept = tonumber(arg())
local time = now()
while more() do
  local own, stage, slots = key(), arg(), arg()
  redis.call('SET', own, '{"at":' .. whole(time) .. ',"stage":' .. cjson.encode(stage) .. ',"slots":' .. slots .. '}',
    'PX', kept)
  redis.call('ZADD', stats, whole(time + kept), own)
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', stats, '-inf', whole(time - 1))) do
  redis.call('ZREM', stats, name)
end
return 1
