-- trim(channel, fresh, limit)
-- Shortens the journal of a channel:
-- 1. Makes the groups of stages that consume the channel, if they are missing. If Redis refuses that, nothing is
--    deleted.
-- 2. Makes dead letters of retries that no stage reads any more.
-- 3. If no group is left, bounds the journal (see bound_unconsumed), also in bytes.
-- 4. Deletes entries that every group has finished, also behind a pending one, so that an event that hangs keeps no
--    other.
-- 5. If more than `limit` entries are left, deletes the oldest that no served stage needs.
-- Returns { result, entries deleted or (if refused) left, entries deleted that an unserved stage had not
-- finished }.
local MOST_PENDING, MOST_DELETED = 100000, 5000
local journal = journal_key(channel)

-- Whether one entry id is less than another.
local function before(a, b)
  local a_ms, a_seq = numbers_of(a)
  local b_ms, b_seq = numbers_of(b)
  return a_ms < b_ms or (a_ms == b_ms and a_seq < b_seq)
end

local function oldest_unfinished(group)
  local ms, seq = numbers_of(group['last-delivered-id'])
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
      if not ok then return { text_of(fault), redis.call('XLEN', journal), 0 } end
    end
  end
end

-- Makes dead letters of retries for a channel that their stage no longer consumes, once no bridge has read them for
-- `fresh`: no bridge would deliver them, and they are not counted in the backlog.
local function bury_abandoned(name, retries)
  for _, list in ipairs(unless_gone('XINFO', 'CONSUMERS', retries, name) or {}) do
    if fields_of(list).idle < fresh then return end
  end
  for _ = 1, 256 do  -- unblocking a key adds the next event of it
    local entry = (unless_gone('XRANGE', retries, '-', '+', 'COUNT', 1) or {})[1]
    if not entry then break end
    local fields = fields_of(entry[2])
    bury(name, { event = fields.event or '', channel = channel, id = id_of(fields.event or '') or '', status = '',
      reason = 'the stage no longer consumes ' .. channel, attempts = fields.attempts or '0',
      crashes = fields.crashes or '0', order = fields.order })
    redis.call('XDEL', retries, entry[1])
    if fields.order then unblock_all(name, channel, { FROM_RETRIES .. entry[1] }, { key_of(fields.order) }) end
  end
  if count('XLEN', retries) == 0 then redis.call('DEL', retries) end
end

for name, stage in pairs(stages) do
  local retries = retries_key(name, channel)
  if not consumes(stage, channel) and redis.call('EXISTS', retries) == 1 then attempt(bury_abandoned, name, retries) end
end

local needed, wanted  -- the oldest entry that a served stage has not finished; the oldest that any stage has not
for name, group in pairs(groups_of(journal)) do
  local oldest = oldest_unfinished(group)
  if not wanted or before(oldest, wanted) then wanted = oldest end
  if is_served(stages, name, channel) and (not needed or before(oldest, needed)) then needed = oldest end
end
if not wanted then
  bound_unconsumed(channel)
  if redis.call('PTTL', journal) > 0 then bound_bytes(journal) end
  return { 'unconsumed', redis.call('XLEN', journal), 0 }
end
redis.call('PERSIST', journal)  -- version 0.1, or an operator, may have made the group of one that was to expire
local deleted, dropped = redis.call('XTRIM', journal, 'MINID', wanted), 0

-- `given`: the last entry that every group has read. `pending`: the entries that are pending in some group.
local given, pending = nil, {}
for name, group in pairs(groups_of(journal)) do
  if not given or before(group['last-delivered-id'], given) then given = group['last-delivered-id'] end
  local rows = redis.call('XPENDING', journal, name, '-', '+', MOST_PENDING)
  if #rows == MOST_PENDING then given = '0-0' end  -- there may be more, so nothing behind them is deleted
  for _, row in ipairs(rows) do pending[row[1]] = true end
end
-- Entry `given` itself stays: without it Redis could not tell how many entries a group has not read.
if given ~= '0-0' then
  local finished = {}
  for _, row in ipairs(redis.call('XRANGE', journal, '-', '(' .. given, 'COUNT', MOST_DELETED)) do
    if not pending[row[1]] then finished[#finished + 1] = row[1] end
  end
  if #finished > 0 then deleted = deleted + redis.call('XDEL', journal, unpack(finished)) end
end

-- Doors refuse events for a channel of which no stage is served, but hops and adoption still add to it. Entries from
-- `needed` on stay. While no bridge is alive nothing is dropped.
local droppable = needed and '(' .. needed or bridge_alive and '+'
while droppable and redis.call('XLEN', journal) > limit do
  local rows = redis.call('XRANGE', journal, '-', droppable, 'COUNT', 1000)
  if #rows == 0 then break end
  local excess = math.min(#rows, redis.call('XLEN', journal) - limit)
  for i = 1, excess do redis.call('XDEL', journal, rows[i][1]) end
  dropped = dropped + excess
end
return { 'trimmed', deleted, dropped }
