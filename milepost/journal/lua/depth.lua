-- depth(stages[stage, channels])
-- Counts the events that wait for each stage. `channels` are separated by spaces. Returns for each { journaled and not
-- finished, parked, dead, milliseconds since the oldest was journaled or -1, how many of the journaled ones are held }.
local function depth(row)
  local journaled, oldest, held = 0, math.huge, 0
  for channel in string.gmatch(row.channels, '%S+') do
    local events, first, behind = waiting_on(row.stage, channel)
    journaled, oldest, held = journaled + events, math.min(oldest, first), held + behind
  end
  local parked = count('ZCARD', parked_key(row.stage))
  if parked > 0 then
    local since = string.match(redis.call('ZRANGE', parked_key(row.stage), 0, 0)[1], '^%S+ (%d+)')
    oldest = math.min(oldest, tonumber(since) or math.huge)
  end
  return { journaled, parked, count('XLEN', dead_key(row.stage)), age(oldest), held }
end

local answers = {}
for _, row in ipairs(stages) do answers[#answers + 1] = depth(row) end
return answers
