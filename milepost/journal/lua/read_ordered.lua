-- read_ordered(stage, consumer, channel, field, most, least)
-- Reads up to `most` events of a channel for a stage that is ordered by key; up to `least` unread ones of them also if retries
-- leave less room. An event's key is this field of its data, or for the field '' its attribute `partitionkey`. An event
-- without such a text, number or boolean has no key and no order.
-- Of each key one event is in hand: it is pending in the journal, in the retries, or parked. All others that were read are
-- held. So a takeover delivers no event before an earlier one of its key.
-- 1. Reads retries, `most` of them at most. Steps 2 and 3 read unread events into the room that is left, a page at a time.
-- 2. An event whose key has no event in hand stays pending, and its key is in hand.
-- 3. An event whose key has one is held and acknowledged. settle lets it go when that one is finished.
-- Before a page is read, each command is tried that its events will need, in case Redis refuses it to this user: events that
-- are read and get no place in the hash would have no order.
-- On a full Redis no event is held, because that would copy the whole journal: the first event that would be stays unread.
-- Returns { retries, unread entries that have other fields than their event, both as XREADGROUP does; of the other unread
-- ones entry, event, entry, event and so on; last entry of the retries that was read, last entry of the journal }. The last
-- two are '' if it ended before there was nothing to read; the last is 'full' if it ended for that.
local MOST_EVENTS, MOST_BYTES, PAGE = 256, 1000000, 32
local retries, journal = retries_key(stage, channel), journal_key(channel)
local in_hand, held = in_hand_key(stage, channel), held_key(stage, channel)

-- Finds out whether Redis is full: then it refuses this write, which changes nothing. The first command that it does not
-- refuse is the read of the retries, and it refuses no write of the script after that.
local written = redis.pcall('SADD', JOURNALS, channel)
local full = type(written) == 'table' and string.find(written.err, 'OOM') ~= nil

local function read(stream, count)
  local found = redis.call('XREADGROUP', 'GROUP', stage, consumer, 'COUNT', count, 'STREAMS', stream, '>')
  return found and found[1][2] or {}
end

local function last_read(stream)
  local group = groups_of(stream)[stage]
  if not group then error({ err = 'NOGROUP ' .. stage .. ' has no group on ' .. stream }) end
  return group['last-delivered-id']
end

-- Returns the value of the field if it is a text that can be seen without decoding, which takes Redis much longer: in an
-- event without `\\`, at the top level of its data, or of itself, before any bracket, and named once.
local name = '"' .. (field == '' and 'partitionkey' or field) .. '"'
local begin, BRACKETS = name .. ':"', { '{', '}', '[', ']' }

local function seen_value(event)
  if string.find(event, '\\', 1, true) then return nil end
  local from = 1
  if field ~= '' then
    from = string.find(event, '{', 2, true)
    if not from or string.sub(event, from - 8, from - 1) ~= ',"data":' then return nil end
  end
  local at, last = string.find(event, begin, from, true)
  if not at or string.find(event, name, last, true) then return nil end
  for _, bracket in ipairs(BRACKETS) do
    local to = string.find(event, bracket, from + 1, true)
    if to and to < at then return nil end
  end
  local to = string.find(event, '"', last + 1, true)
  return to and string.sub(event, last + 1, to - 1)
end

-- Decodes an event; nil if it is none. JSON allows half a surrogate pair, and cjson refuses it: then U+FFFD replaces it.
local HIGH, LOW, HALF = '\\u[dD][89abAB]%x%x', '\\u[dD][c-fC-F]%x%x', '\\u[dD][89a-fA-F]%x%x'

local function decode(event)
  local ok, decoded = pcall(cjson.decode, event)
  if not ok then
    local whole, count = {}, 0
    event = string.gsub(event, HIGH .. LOW, function(pair)
      whole[#whole + 1] = pair
      return '\1'
    end)
    event = string.gsub(string.gsub(event, HALF, '\\ufffd'), '\1', function()
      count = count + 1
      return whole[count]
    end)
    ok, decoded = pcall(cjson.decode, event)
  end
  return ok and type(decoded) == 'table' and decoded or nil
end

-- Returns the key of an event; nil if it has none.
local function key_in(event)
  local seen = seen_value(event)
  if seen then return redis.sha1hex('string' .. seen) end
  local decoded = decode(event)
  if not decoded then return nil end
  local value
  if field == '' then
    value = decoded.partitionkey
  elseif type(decoded.data) == 'table' then
    value = decoded.data[field]
  end
  local kind = type(value)
  if kind == 'number' then
    value = string.format('%.17g', value + 0)  -- -0.0 is 0
  elseif kind ~= 'string' and kind ~= 'boolean' then
    return nil
  end
  return redis.sha1hex(kind .. tostring(value))
end

-- Returns the event of an entry, and its other fields: nil if it has none.
local function event_of(row)
  local list = row[2]
  if #list == 2 and list[1] == 'event' then return list[2], nil end
  local fields = fields_of(list)
  return fields.event or '', fields
end

local places = {}  -- key → where its event in hand is, or false

-- Returns the key of each entry of a page, or false, and looks up which keys are in hand.
local function keys_of(page)
  local keys, unknown = {}, {}
  for i, row in ipairs(page) do
    local key = key_in((event_of(row)))
    keys[i] = key or false
    if key and places[key] == nil then unknown[#unknown + 1] = key end
  end
  if #unknown > 0 then
    for i, place in ipairs(redis.call('HMGET', in_hand, unpack(unknown))) do places[unknown[i]] = place end
  end
  return keys
end

-- Whether another event of its key is in hand.
local function is_behind(entry, key)
  return key and places[key] and places[key] ~= FROM_JOURNAL .. entry
end

local plain, other, moved, bytes = {}, {}, 0, 0

-- Gives each event of a page that was read its place.
local function sort(page)
  local keys, begun, waiting, finished = keys_of(page), {}, {}, {}
  for i, row in ipairs(page) do
    local entry, key, event, fields = row[1], keys[i], event_of(row)
    bytes = bytes + #event
    if fields and fields['for'] and fields['for'] ~= stage then  -- version 0.1 journaled retries for one stage
      finished[#finished + 1] = entry
    elseif is_behind(entry, key) then
      local order, tried = order_of(key, entry), ' - - -\n'
      if fields and fields.attempts then
        tried = ' ' .. since_of(entry, fields) .. ' ' .. fields.attempts .. ' ' .. (fields.crashes or '0') .. '\n'
      end
      waiting[#waiting + 1] = 0
      waiting[#waiting + 1] = order .. tried .. event
      finished[#finished + 1] = entry
      attempt(note, id_of(event) or '', stage, { did = 'held', order = order })
    else
      if key then
        local place, count = FROM_JOURNAL .. entry, #begun
        places[key] = place
        begun[count + 1], begun[count + 2], begun[count + 3], begun[count + 4] = key, place, place, order_of(key, entry)
      end
      if fields then
        other[#other + 1] = row
      else
        local count = #plain
        plain[count + 1], plain[count + 2] = entry, event
      end
    end
  end
  if #begun > 0 then redis.call('HSET', in_hand, unpack(begun)) end
  if #waiting > 0 then redis.call('ZADD', held, unpack(waiting)) end
  if #finished > 0 then redis.call('XACK', journal, stage, unpack(finished)) end
  moved = moved + #page
end

-- Whether the next unread event would be held.
local function next_is_behind()
  local page = redis.call('XRANGE', journal, '(' .. last_read(journal), '+', 'COUNT', 1)
  return page[1] and is_behind(page[1][1], keys_of(page)[1])
end

local retried = read(retries, most)
local unread = math.max(most - #retried, least)
local room = unread
if room > 0 then  -- tries the commands that each page needs
  redis.call('HSET', in_hand, '', '')
  redis.call('HMGET', in_hand, '')
  redis.call('HDEL', in_hand, '')
  redis.call('ZADD', held, 'XX', 0, '')
  redis.call('XACK', journal, stage, '0-0')
end
while room > 0 and moved < MOST_EVENTS and bytes < MOST_BYTES do
  local asked = full and 1 or math.min(room, PAGE, MOST_EVENTS - moved)
  if full and next_is_behind() then return { retried, other, plain, '', 'full' } end
  local page = read(journal, asked)
  sort(page)
  room = unread - #other - #plain / 2
  if #page < asked then return { retried, other, plain, last_read(retries), last_read(journal) } end
end
return { retried, other, plain, '', '' }
