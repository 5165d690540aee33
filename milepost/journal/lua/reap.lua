-- reap: deletes consumers of dead processes. Deleting one drops what it has pending, so only those that have nothing,
-- seen in this very step.
local journal = key()
local group, own, idle = arg(), arg(), tonumber(arg())
local reaped = 0
local consumers = unless_gone('XINFO', 'CONSUMERS', journal, group)
if not consumers then return 0 end
for _, row in ipairs(consumers) do
  local consumer = {}
  for i = 1, #row, 2 do consumer[row[i]] = row[i + 1] end
  if consumer.name ~= own and consumer.pending == 0 and consumer.idle > idle then
    redis.call('XGROUP', 'DELCONSUMER', journal, group, consumer.name)
    reaped = reaped + 1
  end
end
return reaped
