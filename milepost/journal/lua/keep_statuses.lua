-- keep_statuses(stream, start, most, age)
-- Keeps the status of submissions whose event has waited in this stream for more than `age` milliseconds, or is held in
-- this sorted set: it would expire an hour after the last activity. Looks at up to `most` entries from `start` on. Returns
-- where to continue, or '' at the end.
if redis.call('EXISTS', stream) == 0 then return '' end
if string.sub(stream, 1, #HELD) == HELD then
  local members = unless_gone('ZRANGEBYLEX', stream, start, '+', 'LIMIT', 0, most) or {}
  for _, member in ipairs(members) do
    local _, _, _, _, event = read_held(member)
    local id = event and id_of(event)
    if id then keep_statuses_of(id) end
  end
  return #members == most and '[' .. string.match(members[most], '^[^\n]*') .. '\11' or ''
end

local groups = groups_of(stream)
local rows = unless_gone('XRANGE', stream, start, whole(now() - age), 'COUNT', most) or {}

local function is_unfinished(entry)
  for name, group in pairs(groups) do
    if #redis.call('XRANGE', stream, '(' .. group['last-delivered-id'], entry, 'COUNT', 1) > 0 then return true end
    if is_pending(stream, name, entry) then return true end
  end
  return false
end

for _, row in ipairs(rows) do
  local id = id_of(fields_of(row[2]).event or '')
  if id and is_unfinished(row[1]) then keep_statuses_of(id) end
end
return #rows == most and '(' .. rows[#rows][1] or ''
