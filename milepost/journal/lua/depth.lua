-- depth: what lies before each stage. Answers for each { journaled and not settled, parked, dead, milliseconds since
-- the oldest was journaled or -1 }.
local journal_of, waiting_of, dead_of = arg(), arg(), arg()
local time = now()
local oldest

local function meet(since)
  since = tonumber(since)
  if since and (not oldest or since < oldest) then oldest = since end
end

-- The first entry of a range counts from its first journaling, which it carries along if it was parked since.
local function meet_entry(journal, from, to)
  local row = redis.call('XRANGE', journal, from, to, 'COUNT', 1)[1]
  if not row then return false end
  local since = string.match(row[1], '^%d+')
  for i = 1, #row[2], 2 do
    if row[2][i] == 'since' then since = row[2][i + 1] end
  end
  meet(since)
  return true
end

local function group_of(journal, stage)
  local found = unless_gone('XINFO', 'GROUPS', journal)
  if not found then return nil end  -- there is no journal yet
  for _, row in ipairs(found) do
    local group = {}
    for i = 1, #row, 2 do group[row[i]] = row[i + 1] end
    if group.name == stage then return group end
  end
  return { pending = 0, ['last-delivered-id'] = '0-0' }
end

local function unfinished(channel, stage)
  local journal = journal_of .. channel
  local group = group_of(journal, stage)
  if not group then return 0 end
  if group.pending > 0 then
    local first = redis.call('XPENDING', journal, stage)[2]
    meet_entry(journal, first, first)
  end
  if not meet_entry(journal, '(' .. group['last-delivered-id'], '+') then return group.pending end
  local length = redis.call('XLEN', journal)
  return group.lag and math.min(length, group.pending + group.lag) or length
end

local answers = {}
while more() do
  local stage, channels = arg(), tonumber(arg())
  local backlog = 0
  oldest = nil
  for _ = 1, channels do backlog = backlog + unfinished(arg(), stage) end
  local next_due = redis.call('ZRANGE', waiting_of .. stage, 0, 0)[1]
  if next_due then meet(string.match(next_due, '^%S+ (%d+)')) end
  answers[#answers + 1] = {
    backlog, redis.call('ZCARD', waiting_of .. stage), redis.call('XLEN', dead_of .. stage),
    oldest and math.max(0, time - oldest) or -1,
  }
end
return answers
