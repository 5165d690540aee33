-- retry_due(most, stages[stage])
-- Moves parked events that are due into the stream of retries of their stage, up to `most` of each stage. A member that
-- is not a parked event becomes a dead letter. So does an event of a channel that its stage no longer consumes, because
-- no bridge would read that retry. If Redis refuses the retry or the dead letter, the member is due again after a
-- minute, so that it holds up no other: the Broker has events of several channels. If Redis refuses to look at the
-- parked events of one stage, the other stages go on. Returns { how many were moved, milliseconds until the next is due
-- or -1, then stage and error of each stage that was refused }.
local time, stages_table = now(), read_stages()
local moved, next_due, faults = 0, -1, {}
write_when_full()

-- Returns why the member was not moved; nil if it was, or if it became a dead letter.
local function retry_member(stage, member)
  local since, attempts, crashes, channel, order, event = read_parked(member)
  local fault, buried
  if event and stages_table[stage] and not consumes(stages_table[stage], channel) then
    fault = attempt(bury, stage, { event = event, channel = channel, id = id_of(event) or '', reason = 'the stage no longer consumes '
      .. channel, status = '', attempts = attempts, crashes = crashes, order = order })
    buried = not fault
  elseif event then
    fault = attempt(retry, stage, channel, event, since, attempts, crashes, order)
    local id = not fault and id_of(event)
    if id then keep_statuses_of(id) end  -- it may have been due for hours, while no bridge ran
  else
    fault = attempt(bury_unparsed, stage, member)
  end
  if fault then
    redis.call('ZADD', parked_key(stage), whole(time + 60000), member)
    if order then attempt(set_parked, stage, channel, order, time + 60000) end
    return fault
  end
  redis.call('ZREM', parked_key(stage), member)
  if buried and order then attempt(unblock, stage, channel, key_of(order)) end
  moved = moved + 1
end

local function retry_stage(stage)
  local parked, bytes, fault = parked_key(stage), 0, nil
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', parked, '-inf', whole(time), 'LIMIT', 0, most)) do
    bytes = bytes + #member
    if bytes > 8000000 and bytes > #member then break end  -- the rest is due at once
    fault = retry_member(stage, member) or fault
  end
  local first = redis.call('ZRANGE', parked, 0, 0, 'WITHSCORES')
  if first[2] then
    local due = math.max(0, tonumber(first[2]) - time)
    if next_due < 0 or due < next_due then next_due = due end
  end
  return fault
end

for _, row in ipairs(stages) do
  local fault = attempt(retry_stage, row.stage)
  if fault then
    faults[#faults + 1] = row.stage
    faults[#faults + 1] = fault
  end
end
return { moved, whole(next_due), unpack(faults) }
