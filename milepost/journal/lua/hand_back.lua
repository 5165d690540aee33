-- hand_back: lets go of all this consumer has pending, at a clean stop, as if it had gone unrenewed for the claim
-- time already. That includes what a read brought whose answer was never taken.
local journal = key()
local group, consumer, claim, most = arg(), arg(), arg(), arg()
local mine = unless_gone('XPENDING', journal, group, '-', '+', most, consumer)
if not mine then return 0 end
for _, row in ipairs(mine) do
  redis.call('XCLAIM', journal, group, consumer, 0, row[1], 'IDLE', claim, 'JUSTID')
end
return #mine
