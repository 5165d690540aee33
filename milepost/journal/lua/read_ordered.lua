-- read_ordered(stage, consumer, channel, field, most)
-- Reads up to `most` events of a channel for a stage that is ordered by key. An event's key is this field of its data, or
-- for the field '' its attribute `partitionkey`. An event without such a text, number or boolean has no key and no order.
-- Of each key one event is in hand: in the retries or parked. All others that were read from the journal are held.
-- 1. Reads retries. While there are fewer than `most`, steps 2 to 4 add some from the journal.
-- 2. Takes the next events after those that the group has read. Nothing of the journal is ever pending for the stage, so
--    no bridge can take over, and deliver, an event before an earlier one of its key.
-- 3. An event whose key has no event in hand goes into the retries, and its key is in hand. An event whose key has one is
--    held. settle lets it go when that one is finished.
-- 4. Sets the group behind the events that were moved. If Redis refuses to move one, it and all after it stay unread.
-- On a full Redis no event is held, because that would copy the whole journal: the first event that would be stays unread.
-- Returns { entries as XREADGROUP does, last entry of the retries that was read, last entry of the journal }.
local MOST_EVENTS, MOST_BYTES, PAGE = 1000, 1000000, 32
local retries, journal = retries_key(stage, channel), journal_key(channel)
local in_hand, held = in_hand_key(stage, channel), held_key(stage, channel)

-- A full Redis refuses this write, which changes nothing. It allows the read of retries, and so all writes after it.
local written = redis.pcall('SADD', JOURNALS, channel)
local full = type(written) == 'table' and string.find(written.err, 'OOM') ~= nil

local group = groups_of(journal)[stage]
if not group then error({ err = 'NOGROUP ' .. stage .. ' has no group on the journal of ' .. channel }) end

local rows, last_retry = {}, nil

local function read_retries()
  local found = redis.call('XREADGROUP', 'GROUP', stage, consumer, 'COUNT', most - #rows, 'STREAMS', retries, '>')
  for _, row in ipairs(found and found[1][2] or {}) do
    rows[#rows + 1] = row
    last_retry = row[1]
  end
end

-- Returns the order of an event, its key and its id; nil if it has no key.
local function order_of(event, entry)
  local ok, decoded = pcall(cjson.decode, event)
  if not ok or type(decoded) ~= 'table' then return nil end
  local value
  if field == '' then
    value = decoded.partitionkey
  elseif type(decoded.data) == 'table' then
    value = decoded.data[field]
  end
  local kind = type(value)
  if kind == 'number' then
    value = string.format('%.17g', value)
  elseif kind ~= 'string' and kind ~= 'boolean' then
    return nil
  end
  local key = redis.sha1hex(kind .. tostring(value))
  return key .. '/' .. position_of(entry), key, decoded.id
end

local room, taken, begun = nil, {}, {}  -- key → whether it is in hand; the keys that this call took in hand, and where

-- Reads a page of the journal: { entry, event, its fields, order, key, id } each. Looks up which keys are in hand.
local function read_page(from, most_entries)
  local page, keys = {}, {}
  for i, row in ipairs(redis.call('XRANGE', journal, '(' .. from, '+', 'COUNT', most_entries)) do
    local fields = fields_of(row[2])
    local event = fields.event or ''
    page[i] = { row[1], event, fields, order_of(event, row[1]) }
    local key = page[i][5]
    if key and taken[key] == nil then keys[#keys + 1] = key end
  end
  if #keys > 0 then
    for i, place in ipairs(redis.call('HMGET', in_hand, unpack(keys))) do taken[keys[i]] = place ~= false end
  end
  return page
end

-- Moves an entry of the journal. Returns false if it has to stay unread.
local function move(entry, event, fields, order, key, id)
  local only, tried = fields['for'], fields.attempts ~= nil  -- version 0.1 journaled retries for one stage
  if only and only ~= stage then return true end
  local counts = { 'attempts', fields.attempts or '0', 'crashes', fields.crashes or '0' }
  if not order then
    redis.call('XADD', retries, '*', 'event', event, 'since', since_of(entry, fields),
      unpack(tried and counts or { 'first', '1' }))
  elseif not taken[key] then
    local added = redis.call('XADD', retries, '*', 'event', event, 'order', order,
      unpack(tried and { 'since', since_of(entry, fields), unpack(counts) } or {}))
    begun[#begun + 1] = key
    begun[#begun + 1] = added
    taken[key] = true
  else
    if full then return false end
    local head = tried and { order, since_of(entry, fields), counts[2], counts[4] } or { order, '-', '-', '-' }
    redis.call('ZADD', held, 0, table.concat(head, ' ') .. '\n' .. event)
    if type(id) == 'string' then attempt(note, id, stage, { did = 'held', order = order }) end
    return true
  end
  room = room - 1
  return true
end

local last, moved, bytes = group['last-delivered-id'], 0, 0

-- Sets the group behind `last`, and says how many entries it has read, so that Redis goes on knowing the lag.
local function set_position(at_end)
  local read = group['entries-read']
  if not read or at_end and group.lag ~= moved then
    local added = fields_of(redis.call('XINFO', 'STREAM', journal))['entries-added']
    read = at_end and added - moved or group.lag and added - group.lag
  end
  if read then
    redis.call('XGROUP', 'SETID', journal, stage, last, 'ENTRIESREAD', read + moved)
  else
    redis.call('XGROUP', 'SETID', journal, stage, last)
  end
end

-- Tries the writes that end the move of events. If Redis refused them afterwards, it would have the events twice.
local function try_writes()
  redis.call('HSET', in_hand, '', '')
  redis.call('HDEL', in_hand, '')
  set_position()
end

-- Moves entries until there is room for no more. Returns whether none is left.
local function read_journal()
  while room > 0 and moved < MOST_EVENTS do
    local asked = math.min(room, PAGE, MOST_EVENTS - moved)
    local page = read_page(last, asked)
    if moved == 0 and #page > 0 then try_writes() end
    for _, row in ipairs(page) do
      if not move(unpack(row, 1, 6)) then return false end
      last, moved, bytes = row[1], moved + 1, bytes + #row[2]
      if bytes >= MOST_BYTES then return false end
    end
    if #page < asked then return true end
  end
  return false
end

read_retries()
room = most - #rows
local ok, at_end = pcall(read_journal)
if #begun > 0 then redis.call('HSET', in_hand, unpack(begun)) end
if moved > 0 then
  set_position(ok and at_end)
  if room < most - #rows then read_retries() end
end
if not ok then raise(at_end) end
if not last_retry then last_retry = groups_of(retries)[stage]['last-delivered-id'] end
return { rows, last_retry, last }
