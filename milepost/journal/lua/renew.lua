-- renew(stage, consumer, entries[stream, entry])
-- Renews the claim on entries that this consumer is delivering. Returns the numbers, from 0, of those that it has lost.
local lost = {}
for i, row in ipairs(entries) do
  local mine = unless_gone('XPENDING', row.stream, stage, row.entry, row.entry, 1, consumer)
  if not mine or #mine == 0 then
    lost[#lost + 1] = i - 1
  else
    redis.call('XCLAIM', row.stream, stage, consumer, 0, row.entry, 'JUSTID')
  end
end
return lost
