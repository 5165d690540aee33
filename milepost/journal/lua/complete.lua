-- complete(stage, completions[stream, entry, id, channel, event, data])
-- Acknowledges deliveries that succeeded (see settle in common.lua), and journals their replies in the same step. A row
-- without a channel has no reply. Returns for each 'done', 'stale' or 'error …'.
write_when_full()
local channels, steps = {}, {}

local function complete(row)
  if row.channel ~= '' then
    journal_event(row, true)
    channels[row.channel] = true
  end
  if row.channel == '' or row.times ~= 1 then
    steps[row.times] = steps[row.times] or { did = 'delivered', times = row.times }
    note(row.id, stage, steps[row.times])
  end
  return 'done'
end

local answers = settle(stage, completions, complete)
for channel in pairs(channels) do bound_unconsumed(channel) end
return answers
