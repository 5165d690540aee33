-- trim(channel, fresh, limit)
-- Deletes the entries of a journal that every group has finished, those behind a pending one too: an event that hangs
-- keeps no other. First makes the groups that the stages table names and the journal lacks; where Redis refuses that,
-- the journal stays as it is. A journal that no stage consumes is bounded (see bound_unconsumed). Where more than
-- `limit` events are left, the oldest that no served stage needs are deleted. Retries that no stage reads any more become
-- dead letters. Answers { what happened, entries deleted or left, entries deleted that an unserved stage had not finished }.
local MOST_PENDING, MOST_DELETED = 100000, 5000
local journal = journal_key(channel)

local function oldest_unfinished(group)
  local ms, seq = split(group['last-delivered-id'])
  local unread = whole(ms) .. '-' .. whole(seq + 1)
  if group.pending == 0 then return unread end
  -- Pending entries were read before the unread ones, unless an operator has set the group back.
  local oldest = redis.call('XPENDING', journal, group.name)[2]
  return before(oldest, unread) and oldest or unread
end

if redis.call('EXISTS', journal) == 0 then
  redis.call('SREM', JOURNALS, channel)
  return { 'absent', 0, 0 }
end
write_when_full()
local stages, bridge_alive = read_stages(fresh)
local present = groups_of(journal)
for name, stage in pairs(stages) do
  for _, consumed in ipairs(stage.consumes) do
    if consumed == channel and not present[name] then
      local ok, fault = pcall(make_group, journal, name, '0')
      if not ok then return { fault.err or tostring(fault), redis.call('XLEN', journal), 0 } end
    end
  end
end

-- Retries of a channel that their stage no longer consumes, once no bridge has looked at them for `fresh`: nobody would
-- deliver them, and the backlog does not count them.
local function bury_abandoned(name, retries)
  for _, list in ipairs(unless_gone('XINFO', 'CONSUMERS', retries, name) or {}) do
    if fields_of(list).idle < fresh then return end
  end
  for _, entry in ipairs(unless_gone('XRANGE', retries, '-', '+', 'COUNT', 256) or {}) do
    local fields = fields_of(entry[2])
    bury(name, { event = fields.event or '', channel = channel, id = id_of(fields.event or '') or '', status = '',
      reason = 'the stage no longer consumes ' .. channel, attempts = fields.attempts or '0',
      crashes = fields.crashes or '0' })
    redis.call('XDEL', retries, entry[1])
  end
  if count('XLEN', retries) == 0 then redis.call('DEL', retries) end
end

for name, stage in pairs(stages) do
  local retries = retries_key(name, channel)
  if not consumes(stage, channel) and redis.call('EXISTS', retries) == 1 then attempt(bury_abandoned, name, retries) end
end

local needed, wanted  -- the oldest entry that a served stage needs; that any stage does
for name, group in pairs(groups_of(journal)) do
  local oldest = oldest_unfinished(group)
  if not wanted or before(oldest, wanted) then wanted = oldest end
  if is_served(stages, name, channel) and (not needed or before(oldest, needed)) then needed = oldest end
end
if not wanted then
  bound_unconsumed(channel)
  return { 'unconsumed', redis.call('XLEN', journal), 0 }
end
local deleted, dropped = redis.call('XTRIM', journal, 'MINID', wanted), 0

-- The last entry that every group was given, and whether it is pending in one of them.
local given, pending = nil, {}
for name, group in pairs(groups_of(journal)) do
  if not given or before(group['last-delivered-id'], given) then given = group['last-delivered-id'] end
  local rows = redis.call('XPENDING', journal, name, '-', '+', MOST_PENDING)
  if #rows == MOST_PENDING then given = '0-0' end  -- there may be more, so nothing behind them is deleted
  for _, row in ipairs(rows) do pending[row[1]] = true end
end
-- The last one itself stays: were it deleted, Redis could not tell any more how many a group has not read.
if given ~= '0-0' then
  for _, row in ipairs(redis.call('XRANGE', journal, '-', '(' .. given, 'COUNT', MOST_DELETED)) do
    if not pending[row[1]] then deleted = deleted + redis.call('XDEL', journal, row[1]) end
  end
end

-- Doors are closed to a channel whose stages are all unserved, but hops and adoption still add to it.
local droppable = needed and '(' .. needed or bridge_alive and '+'
while droppable and redis.call('XLEN', journal) > limit do
  local rows = redis.call('XRANGE', journal, '-', droppable, 'COUNT', 1000)
  if #rows == 0 then break end
  local excess = math.min(#rows, redis.call('XLEN', journal) - limit)
  for i = 1, excess do redis.call('XDEL', journal, rows[i][1]) end
  dropped = dropped + excess
end
return { 'trimmed', deleted, dropped }
