-- takeover: claims entries that went unrenewed for the claim time, with their bodies, but for those this process
-- holds. An entry without a body was deleted by an operator: acknowledged and counted.
local journal = key()
local group, consumer, claim, most, cursor = arg(), arg(), arg(), arg(), arg()
local held = {}
while more() do held[arg()] = true end
local found = unless_gone('XAUTOCLAIM', journal, group, consumer, claim, cursor, 'COUNT', most, 'JUSTID')
if not found then return { '0-0', {}, 0 } end
local taken, destroyed = {}, #found[3]
for _, id in ipairs(found[2]) do
  if not held[id] then
    local entry = redis.call('XRANGE', journal, id, id)[1]
    if entry then
      taken[#taken + 1] = entry
    else
      redis.call('XACK', journal, group, id)
      destroyed = destroyed + 1
    end
  end
end
return { found[1], taken, destroyed }
