-- renew: keeps the claim on entries this consumer has on the wire. Answers those that are no longer its own.
local journal = key()
local group, consumer = arg(), arg()
local lost = {}
while more() do
  local id = arg()
  local mine = unless_gone('XPENDING', journal, group, id, id, 1, consumer)
  if not mine or #mine == 0 then
    lost[#lost + 1] = id
  else
    redis.call('XCLAIM', journal, group, consumer, 0, id, 'JUSTID')
  end
end
return lost
