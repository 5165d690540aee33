-- depth(stages[stage, channels])
-- Counts the events that wait for each stage. `channels` are separated by spaces. Returns for each { journaled and not
-- finished, parked, dead, milliseconds since the oldest was journaled or -1 }.
local time = now()
local oldest

-- Keeps the earliest of the times that it is given.
local function see(since)
  since = tonumber(since)
  if since and (not oldest or since < oldest) then oldest = since end
end

-- Looks at the first entry of a range. A retry has the time of its first journaling in `since`.
local function see_first(stream, from, to)
  local row = redis.call('XRANGE', stream, from, to, 'COUNT', 1)[1]
  if row then see(fields_of(row[2]).since or string.match(row[1], '^%d+')) end
end

local function waiting_in(stream, stage)
  if count('XLEN', stream) == 0 then return 0 end
  local group = groups_of(stream)[stage] or { pending = 0, ['last-delivered-id'] = '0-0' }
  if group.pending > 0 then
    local first = redis.call('XPENDING', stream, stage)[2]
    see_first(stream, first, first)
  end
  see_first(stream, '(' .. group['last-delivered-id'], '+')
  return unfinished(stream, group)
end

local function depth(row)
  local journaled = 0
  for channel in string.gmatch(row.channels, '%S+') do
    journaled = journaled + waiting_in(journal_key(channel), row.stage)
      + waiting_in(retries_key(row.stage, channel), row.stage)
  end
  local parked = count('ZCARD', parked_key(row.stage))
  if parked > 0 then see(string.match(redis.call('ZRANGE', parked_key(row.stage), 0, 0)[1], '^%S+ (%d+)')) end
  return { journaled, parked, count('XLEN', dead_key(row.stage)), oldest and math.max(0, time - oldest) or -1 }
end

local answers = {}
for _, row in ipairs(stages) do
  oldest = nil
  answers[#answers + 1] = depth(row)
end
return answers
