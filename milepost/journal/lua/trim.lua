-- trim: drops what every group has finished. First makes the groups that the stages table knows and the journal
-- lacks; where that is refused, or no group exists at all, the journal waits untouched.
-- Answers { what happened, entries dropped or left }.
local stages, journals, journal = key(), key(), key()
local channel = arg()

local function groups()
  local rows = {}
  for _, row in ipairs(unless_gone('XINFO', 'GROUPS', journal) or {}) do
    local group = {}
    for i = 1, #row, 2 do group[row[i]] = row[i + 1] end
    rows[group.name] = group
  end
  return rows
end

local function split(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local function before(a, b)
  local a_ms, a_seq = split(a)
  local b_ms, b_seq = split(b)
  return a_ms < b_ms or (a_ms == b_ms and a_seq < b_seq)
end

local function oldest_unfinished(group)
  local ms, seq = split(group['last-delivered-id'])
  local unread = whole(ms) .. '-' .. whole(seq + 1)
  if group.pending == 0 then return unread end
  -- What is pending was read before, but where an operator has set the group back.
  local oldest = redis.call('XPENDING', journal, group.name)[2]
  return before(oldest, unread) and oldest or unread
end

if redis.call('EXISTS', journal) == 0 then return { 'absent', 0 } end
defy_full(journals)
local present = groups()
for _, name in ipairs(redis.call('HKEYS', stages)) do
  local stage = cjson.decode(redis.call('HGET', stages, name))
  for _, consumed in ipairs(stage.consumes) do
    if consumed == channel and not present[name] then
      local made = redis.pcall('XGROUP', 'CREATE', journal, name, '0')
      if made.err then return { made.err, redis.call('XLEN', journal) } end
    end
  end
end
local least
for _, group in pairs(groups()) do
  local oldest = oldest_unfinished(group)
  if not least or before(oldest, least) then least = oldest end
end
if not least then return { 'no group', redis.call('XLEN', journal) } end
return { 'trimmed', redis.call('XTRIM', journal, 'MINID', least) }
