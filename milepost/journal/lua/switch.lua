-- switch(fresh, broker, routes[stage, channel])
-- Changes the delivery mode. In broker mode `broker` has the only groups, in direct mode each stage has its own:
-- 1. Finds the groups of the other mode by the stages table. Without any, returns { 'nothing' }. In direct mode the stages
--    of other bridges take their place as well, if the Broker's bridges have named them (see beat).
-- 2. If one of its stages is paused, returns { 'paused', stage }: the new mode has other stages, which would deliver.
-- 3. Returns { 'many', events } if more events are under way (pending, retries, held and parked ones) than MOST, or
--    more bytes than MOST_BYTES: Redis answers nobody while it moves them. Returns { 'unfinished', stage, events } if one of
--    them would get no group here, if its channel had two groups in the other mode, or if such groups stand at different
--    entries. Only then, if a bridge still serves the other mode, returns { 'served', stage }: that bridge may end.
-- 4. Makes this bridge's groups where the other mode's groups end, so that nothing is delivered twice.
-- 5. Moves the events under way into its streams of retries, with their counts and deadlines.
-- 6. Deletes the groups, retries, held and parked events and table rows of the other mode, and writes the rows of the new one.
--    Where a channel keeps no group all of its events are finished, and are deleted: a later group would get them again.
-- Returns { 'done' }.
local here, own, stages_of, beats = {}, {}, {}, {}

local function add_stage(stage, channel, beat)
  own[stage] = own[stage] or {}
  table.insert(own[stage], channel)
  stages_of[channel] = stages_of[channel] or {}
  table.insert(stages_of[channel], stage)
  beats[stage] = beat
end

for _, route in ipairs(routes) do
  add_stage(route.stage, route.channel, now())
  here[route.stage] = true
end

local stages, bridge_alive = read_stages(fresh)
local others, others_on = {}, {}
for name, stage in pairs(stages) do
  if not own[name] and (name == broker) ~= (own[broker] ~= nil) then
    others[name] = stage
  end
end
if not next(others) then return { 'nothing' } end
for name in pairs(others) do
  if unless_gone('SISMEMBER', PAUSED, name) == 1 then return { 'paused', name } end
end
for _, stage in pairs(others) do
  local channels = {}
  for _, channel in ipairs(stage.consumes) do channels[channel] = true end
  for name, behind in pairs(stage.behind or {}) do
    for _, channel in ipairs(behind.consumes) do
      channels[channel] = true
      if not here[name] then add_stage(name, channel, stage.beat) end
    end
  end
  stage.channels = {}
  for channel in pairs(channels) do
    table.insert(stage.channels, channel)
    others_on[channel] = (others_on[channel] or 0) + 1
  end
end

local MOST, MOST_BYTES = 100000, 64000000

-- Whether events under way on this channel cannot be moved.
local function is_stuck(channel)
  return not stages_of[channel] or (others_on[channel] or 0) > 1
end

-- Everything is checked before the first write, so that a switch that is not possible changes nothing. A bridge that waits
-- for the other mode repeats this each second, so it reads no event.
local events, bytes, positions, served, refused, stuck = 0, 0, {}, nil, nil, nil
for name, stage in pairs(others) do
  if bridge_alive and stage.served then served = name end
  local parked = count('ZCARD', parked_key(name))
  events, bytes = events + parked, bytes + bytes_of(parked_key(name))
  for _, channel in ipairs(stage.channels) do
    local retries, held = count('XLEN', retries_key(name, channel)), count('ZCARD', held_key(name, channel))
    local journal, pending = journal_key(channel), 0
    local group = groups_of(journal)[name]
    if group then
      local position, left = group['last-delivered-id'], unfinished(journal, group)
      if left > 0 and not stages_of[channel] or positions[channel] and positions[channel] ~= position then
        refused = { 'unfinished', name, left }
      end
      positions[channel], pending = position, group.pending
      local entries = count('XLEN', journal)
      if entries > 0 then bytes = bytes + bytes_of(journal) * math.min(1, pending / entries) end
    end
    events = events + pending + retries + held
    bytes = bytes + bytes_of(retries_key(name, channel)) + bytes_of(held_key(name, channel))
    local waiting = pending + retries + held + parked
    if is_stuck(channel) and waiting > 0 then stuck = { 'unfinished', name, waiting } end
  end
end
if events > MOST or bytes > MOST_BYTES then return { 'many', events } end
if refused then return refused end
if served then return stuck or { 'served', served } end

local broken = {}

-- Lists the events under way for a stage of the other mode, each as { channel, event, since, attempts, crashes }.
local function under_way(name, stage)
  local found = {}
  local function keep(channel, entry)
    local fields = fields_of(entry[2])
    found[#found + 1] = { channel, fields.event, since_of(entry[1], fields), fields.attempts or '0',
      fields.crashes or '0' }
  end
  for _, channel in ipairs(stage.channels) do
    for _, row in ipairs(unless_gone('XPENDING', journal_key(channel), name, '-', '+', 1000000) or {}) do
      local entry = redis.call('XRANGE', journal_key(channel), row[1], row[1])[1]
      if entry then keep(channel, entry) end
    end
    for _, entry in ipairs(unless_gone('XRANGE', retries_key(name, channel), '-', '+') or {}) do keep(channel, entry) end
    for _, member in ipairs(unless_gone('ZRANGE', held_key(name, channel), 0, -1) or {}) do
      local order, since, attempts, crashes, event = read_held(member)
      if event and since == '-' then
        found[#found + 1] = { channel, event, time_of(order), '0', '0' }
      elseif event then
        found[#found + 1] = { channel, event, since, attempts, crashes }
      else
        broken[#broken + 1] = { name, member }
      end
    end
  end
  for _, member in ipairs(unless_gone('ZRANGE', parked_key(name), 0, -1) or {}) do
    local since, attempts, crashes, channel, _, event = read_parked(member)
    if event then
      found[#found + 1] = { channel, event, since, attempts, crashes }
    else
      broken[#broken + 1] = { name, member }
    end
  end
  return found
end

local moving = {}
for name, stage in pairs(others) do
  local found = under_way(name, stage)
  for _, event in ipairs(found) do
    if is_stuck(event[1]) then return { 'unfinished', name, #found } end
    moving[#moving + 1] = event
  end
end

write_when_full()
for _, row in ipairs(broken) do attempt(bury_unparsed, row[1], row[2]) end
for channel, names in pairs(stages_of) do
  for _, stage in ipairs(names) do
    make_group(journal_key(channel), stage, positions[channel] or '0')
    make_group(retries_key(stage, channel), stage, '0')
  end
end
for _, event in ipairs(moving) do
  for _, stage in ipairs(stages_of[event[1]]) do
    retry(stage, event[1], event[2], event[3], event[4], event[5])
  end
end
for name, stage in pairs(others) do
  for _, channel in ipairs(stage.channels) do
    redis.pcall('XGROUP', 'DESTROY', journal_key(channel), name)
    redis.call('DEL', retries_key(name, channel), held_key(name, channel), in_hand_key(name, channel))
    if not next(groups_of(journal_key(channel))) then redis.pcall('XTRIM', journal_key(channel), 'MAXLEN', 0) end
  end
  redis.call('DEL', parked_key(name))
  redis.call('HDEL', STAGES, name)
end
-- At once, not with the first beat: a bridge that dies before it would leave groups that no later switch finds. A stage
-- of another bridge is served once that bridge beats.
for name, channels in pairs(own) do
  redis.call('HSET', STAGES, name, '{"consumes":' .. cjson.encode(channels) .. ',"emits":[],"url":"","beat":'
    .. whole(beats[name]) .. '}')
end
return { 'done' }
