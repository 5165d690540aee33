-- park(stage, deadline, deliveries[stream, entry, channel, event, id, since, delay, attempts, crashes, reason, status])
-- Parks events until their next delivery (see settle). Returns for each 'done', 'buried', 'stale' or 'error …'.
-- An event with a reason has failed: it is due `delay` from now. If its deadline has passed it becomes a dead letter,
-- unless Redis refuses that.
-- An event without a reason was not tried: it is due when it is `delay` old, and its deadline counts from that time. If it
-- is that old already, it goes to the retries.
write_when_full()

local function park(row)
  if row.reason ~= '' and now() - row.since >= deadline then
    row.reason = 'deadline passed; last: ' .. row.reason
    local failed = attempt(bury, stage, row)  -- bury itself returns nothing
    if not failed then return 'buried' end
  end
  local due = now() + row.delay
  if row.reason == '' then
    due = row.since + row.delay
    row.since = due
  end
  if row.reason == '' and due <= now() then
    retry(stage, row.channel, row.event, whole(row.since), row.attempts, row.crashes, row.order)
    row.kept = true
    if row.id ~= '' then keep_statuses_of(row.id) end
    return 'done'
  end
  local head = table.concat({ row.entry, whole(row.since), row.attempts, row.crashes, row.channel, row.order }, ' ')
  local member = head .. '\n' .. row.event
  redis.call('ZADD', parked_key(stage), whole(due), member)
  if row.order then
    local ok, fault = pcall(set_parked, stage, row.channel, row.order, due)
    if not ok then
      redis.call('ZREM', parked_key(stage), member)
      raise(fault)
    end
  end
  row.kept = true
  note(row.id, stage, { did = row.reason == '' and 'delayed' or 'failed', answer = row.reason, due = due, times = row.times })
  if row.id ~= '' then keep_statuses_of(row.id, due - now() + HOUR) end
  return 'done'
end

return settle(stage, deliveries, park)
