-- forget(stage, channel, fresh)
-- Deletes a stage's row in the stages table, its pause, groups, retries, parked and held events and dead letters. Returns
-- { 'forgotten', parked and held events and retries, dead letters }, or { 'served' } or { 'unknown' }. 'served': its beat is
-- fresh, and nothing was deleted. With a channel (one that the stage does not consume) only its group, its retries and its
-- held events are deleted.
local text = redis.call('HGET', STAGES, stage)
local row = read_stages()[stage]

-- Deletes the retries and held events of a channel, and returns how many.
local function delete_retries(channel)
  local retries, held = retries_key(stage, channel), held_key(stage, channel)
  local events = count('XLEN', retries) + count('ZCARD', held)
  redis.call('DEL', retries, held, in_hand_key(stage, channel))
  return events
end

if channel == '' and row and now() - row.beat < fresh then return { 'served' } end
if channel ~= '' then
  if consumes(row, channel) then return { 'unknown' } end
  local retries = delete_retries(channel)
  if redis.pcall('XGROUP', 'DESTROY', journal_key(channel), stage) ~= 1 and retries == 0 then
    return { 'unknown' }
  end
  return { 'forgotten', retries, 0 }
end
local parked = count('ZCARD', parked_key(stage))
local dead = count('XLEN', dead_key(stage))
redis.call('HDEL', STAGES, stage)
local groups, channels = 0, consumed_channels(row and { row } or {})  -- an operator may have deleted a journal
for _, channel in ipairs(redis.call('SMEMBERS', JOURNALS)) do channels[channel] = true end
for channel in pairs(channels) do
  local destroyed = redis.pcall('XGROUP', 'DESTROY', journal_key(channel), stage)
  if type(destroyed) == 'number' then groups = groups + destroyed end  -- else there is no such journal
  parked = parked + delete_retries(channel)
end
redis.call('DEL', parked_key(stage), dead_key(stage))
redis.call('SREM', DEAD, stage)
redis.pcall('SREM', PAUSED, stage)
if not text and groups + parked + dead == 0 then return { 'unknown' } end
return { 'forgotten', parked, dead }
