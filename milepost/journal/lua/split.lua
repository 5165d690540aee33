-- split(stage, stream, entry, id, answers[channel, id, event, data])
-- Acknowledges one entry that was delivered (see settle in common.lua), and journals all of its answers in the same step.
-- The status of the event `id` says how many there are; each answer has an id, and so a status, of its own.
-- Returns 'done', 'stale' or 'error …'. If Redis refuses one answer, none is journaled and the entry stays pending.
write_when_full()
local added, channels = {}, {}

-- Published messages cannot be taken back. So each channel is tried first.
local function check_channels()
  for channel in pairs(channels) do
    if not redis.acl_check_cmd('PUBLISH', channel, '') then
      error({ err = 'NOPERM this user may not PUBLISH on ' .. channel })
    end
  end
end

local function journal_all()
  for _, answer in ipairs(answers) do
    added[#added + 1] = { journal_key(answer.channel), add(answer.channel, answer.event) }
    channels[answer.channel] = true
  end
  check_channels()
  for i, answer in ipairs(answers) do publish_event(answer, added[i][2]) end
  for _, answer in ipairs(answers) do write_status(answer.id, answer.channel, answer.data) end
  if id ~= '' then write_status(id, PARTS .. stage, '{"parts":' .. #answers .. '}') end
end

local answer = settle(stage, { { stream = stream, entry = entry } }, function(row)
  local ok, fault = pcall(journal_all)
  if not ok then
    for _, one in ipairs(added) do redis.call('XDEL', one[1], one[2]) end
    raise(fault)
  end
  if row.times ~= 1 then note(id, stage, { did = 'delivered', times = row.times }) end
  return 'done'
end)[1]
for channel in pairs(channels) do bound_unconsumed(channel) end
return answer
