-- replay(stage, broker, fresh, letters[entry])
-- Moves dead letters into the stream of retries of their stage (in broker mode: of the Broker). Their counts and
-- deadline begin afresh. One with `order` is held while another event of its key is in hand, at its old position: before
-- all later events of the key that wait. Ends after 8 MB. Returns { how many it moved, how many of the given ones it looked
-- at }. If no bridge serves the stage of one of these on its channel, returns { { stage, channel } } and moves none.
local dead = dead_key(stage)
local table_rows, bridge_alive = read_stages(fresh)

local found, known, looked_at, bytes = {}, {}, 0, 0
for _, row in ipairs(letters) do
  if bytes > 8000000 then break end
  looked_at = looked_at + 1
  local entry = redis.call('XRANGE', dead, row.entry, row.entry)[1]
  if entry and not known[row.entry] then
    known[row.entry] = true
    local letter = fields_of(entry[2])
    letter.entry = row.entry
    bytes = bytes + #(letter.event or '')
    for _, route in ipairs({ stage, broker }) do
      local served = bridge_alive and is_served(table_rows, route, letter.channel)
      if served and not letter.route then letter.route = route end
    end
    if not letter.route then return { { stage, letter.channel or '' } } end
    found[#found + 1] = letter
  end
end
write_when_full()
local ordered = {}
for _, letter in ipairs(found) do
  if letter.order and letter.route == stage then
    local head = letter.order .. ' ' .. whole(now()) .. ' 0 0\n'
    redis.call('ZADD', held_key(stage, letter.channel), 0, head .. (letter.event or ''))
    ordered[#ordered + 1] = letter
  else
    redis.call('XADD', retries_key(letter.route, letter.channel), '*', 'event', letter.event or '')
  end
  redis.call('XDEL', dead, letter.entry)
  if letter.id and letter.id ~= '' then
    redis.pcall('HDEL', status_key(letter.id), 'dead:' .. stage)  -- it may be of another type
    note(letter.id, stage, { did = 'replayed', order = letter.route == stage and letter.order or nil })
  end
end
for _, letter in ipairs(ordered) do
  local key = key_of(letter.order)
  if not redis.call('HGET', in_hand_key(stage, letter.channel), key) then unblock(stage, letter.channel, key) end
end
return { #found, looked_at }
