-- keep_statuses(channel, start, most, age)
-- Keeps the status of submissions whose event has waited in this journal for more than `age` milliseconds: a status
-- otherwise ends an hour after the last activity. Looks at up to `most` entries from `start` on. Answers where to go on,
-- or an empty text at the end.
local journal = journal_key(channel)
local groups = groups_of(journal)
local rows = redis.call('XRANGE', journal, start, whole(now() - age), 'COUNT', most)

local function is_unfinished(entry)
  for name, group in pairs(groups) do
    if #redis.call('XRANGE', journal, '(' .. group['last-delivered-id'], entry, 'COUNT', 1) > 0 then return true end
    if is_pending(journal, name, entry) then return true end
  end
  return false
end

-- The id of an event as Milepost writes it, with its escapes read.
local function id_of(event)
  local ok, id = pcall(cjson.decode, string.match(event, '^{"specversion":"1.0","id":(".-")[,}]') or 'null')
  return ok and type(id) == 'string' and id
end

for _, row in ipairs(rows) do
  local id = id_of(fields_of(row[2]).event or '')
  if id and is_unfinished(row[1]) then keep_status(status_key(id)) end
end
return #rows == most and '(' .. rows[#rows][1] or ''
