-- unblock_lost(stage, channel, start, most)
-- Unblocks keys of a stage that is ordered by key whose event in hand is not there any more, because an operator has
-- deleted it: without that the next events of the key would be held for ever. Looks at about `most` keys: `start` is a
-- cursor of HSCAN over the hash of keys in hand, then 'held ' and where to continue among the held events. A member that
-- no key would let go becomes a dead letter. Returns { where to continue, or '' at the end; how many keys it unblocked }.
local in_hand, held = in_hand_key(stage, channel), held_key(stage, channel)
local unblocked, parked = 0, {}
if redis.call('EXISTS', in_hand, held) == 0 then return { '', 0 } end  -- it is not ordered
write_when_full()

-- Finds the keys of the events that are parked from one time to another: key → true.
local function parked_between(from, to)
  if not parked[from] then
    parked[from] = {}
    for _, member in ipairs(unless_gone('ZRANGEBYSCORE', parked_key(stage), from, to) or {}) do
      local _, _, _, of, order = read_parked(member)
      if order and of == channel then parked[from][key_of(order)] = true end
    end
  end
  return parked[from]
end

-- Whether an event is in this place. A bridge may have one that was deleted from the journal until it is not pending.
local function is_there(place)
  local letter, entry = string.match(place, '^(%l)(%d+%-%d+)$')
  if letter == FROM_JOURNAL then return is_pending(journal_key(channel), stage, entry) end
  return letter == FROM_RETRIES and #redis.call('XRANGE', retries_key(stage, channel), entry, entry) > 0
end

local function check(key, place)
  local due = place and string.match(place, '^parked (%d+)$')
  local found
  if due then
    -- An operator may have changed the time of a parked event.
    found = parked_between(due, due)[key] or parked_between('-inf', '+inf')[key]
  else
    found = place and is_there(place)
  end
  if not found then
    unblock(stage, channel, key)
    unblocked = unblocked + 1
  end
end

if string.match(start, '^%d+$') then
  local cursor, list = unpack(redis.call('HSCAN', in_hand, start, 'COUNT', most))
  for i = 1, #list, 2 do
    if string.find(list[i], '^%x+$') then
      check(list[i], list[i + 1])
    elseif not is_there(list[i]) then
      redis.call('HDEL', in_hand, list[i])
    end
  end
  return { cursor == '0' and 'held -' or cursor, unblocked }
end
local from = string.match(start, '^held (.*)$')
for _ = 1, most do
  local member = redis.call('ZRANGEBYLEX', held, from, '+', 'LIMIT', 0, 1)[1]
  if not member then return { '', unblocked } end
  local key, slash = string.match(member, '^([^/\n]*)(/?)')
  if slash == '' then
    if not attempt(bury_unparsed, stage, member) then redis.call('ZREM', held, member) end
  else
    check(key, redis.call('HGET', in_hand, key))
  end
  from = '[' .. key .. '0'  -- 0 is after /
end
return { 'held ' .. from, unblocked }
