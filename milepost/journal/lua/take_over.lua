-- take_over(stage, consumer, most, claim, streams[stream])
-- Claims up to `most` entries that another consumer has not renewed for `claim` milliseconds. Returns { entries, number
-- of entries that an operator had deleted }, each entry as { stream, id, fields, how often it was given out }.
local taken, destroyed = {}, 0
for _, row in ipairs(streams) do
  local cursor = '0-0'
  repeat
    local room = most - #taken
    if room <= 0 then break end
    local found = redis.call('XAUTOCLAIM', row.stream, stage, consumer, claim, cursor, 'COUNT', room)
    cursor = found[1]
    for _, entry in ipairs(found[2]) do
      local deliveries = redis.call('XPENDING', row.stream, stage, entry[1], entry[1], 1)[1][4]
      taken[#taken + 1] = { row.stream, entry[1], entry[2], deliveries }
    end
    destroyed = destroyed + #found[3]
  until cursor == '0-0'
end
return { taken, destroyed }
