-- forget: removes a stage's table entry, groups, parked events and dead letters; refused while its beat is fresh.
-- Answers { verdict, parked, dead }.
local stages, announced, journals, waiting, graves, dead = key(), key(), key(), key(), key(), key()
local stage, fresh, journal_of = arg(), tonumber(arg()), arg()
local text = redis.call('HGET', stages, stage)
if text and now() - cjson.decode(text).beat < fresh then return { 'served', 0, 0 } end
local parked, buried = redis.call('ZCARD', waiting), redis.call('XLEN', dead)
local groups = 0
for _, channel in ipairs(redis.call('SMEMBERS', journals)) do
  local destroyed = redis.pcall('XGROUP', 'DESTROY', journal_of .. channel, stage)
  if type(destroyed) == 'number' then groups = groups + destroyed end  -- else there is no such journal
end
redis.call('DEL', waiting, dead)
redis.call('SREM', graves, stage)
redis.call('HDEL', stages, stage)
keep_announced(stages, announced)
if not text and groups + parked + buried == 0 then return { 'unknown', 0, 0 } end
return { 'forgotten', parked, buried }
