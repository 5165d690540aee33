-- complete(stage, emits, completions[stream, entry, id, channel, event, data])
-- Acknowledges entries that were delivered (see settle in common.lua), and journals their replies in the same step. A row
-- without a channel has no reply. Returns for each 'done', 'stale' or 'error …'.
-- The history gets no step for a reply, which has a time on its channel, and none for a first success of a stage that
-- emits nothing (`emits` is 0): that the entry is finished says it all.
write_when_full()
local channels, steps = {}, {}

local function complete(row)
  if row.channel ~= '' then
    journal_event(row, true)
    channels[row.channel] = true
  end
  local is_retry = string.sub(row.stream, 1, #RETRIES) == RETRIES
  if row.times ~= 1 or row.channel == '' and (emits == 1 or is_retry) then
    steps[row.times] = steps[row.times] or { did = 'delivered', times = row.times }
    note(row.id, stage, steps[row.times])
  elseif row.channel == '' then
    keep_statuses_of(row.id)
  end
  return 'done'
end

local answers = settle(stage, completions, complete)
for channel in pairs(channels) do bound_unconsumed(channel) end
return answers
