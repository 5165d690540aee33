-- Shared by every script and put before each of them.
-- Times are milliseconds of Redis TIME. Events pass through as text, because cjson keeps 14 digits of a number.

local HOUR = 3600000
local MOST_UNCONSUMED_EVENTS = 10000
local MOST_KEPT_BYTES = 32000000
local MOST_STEPS = 12
local LONGEST_ANSWER = 300

local function whole(number)
  return string.format('%.0f', number)
end

local microseconds

-- Microseconds of Redis TIME as text, the same all through a script.
local function clock()
  if not microseconds then microseconds = string.format('%s%06d', unpack(redis.call('TIME'))) end
  return microseconds
end

local function now()
  return math.floor(clock() / 1000)
end

-- Makes a write that changes nothing. A full Redis checks memory only at a script's first write, and it allows this
-- one. So Redis refuses none of the script's later writes for lack of memory.
local function write_when_full()
  redis.call('XACK', JOURNALS .. ':none', 'none', '0-0')
end

-- Whether an error is about the server and not about the item: then every other item would meet it too. A node of a
-- Cluster that hands our slot over has not all keys, and gives such an error no code of its own.
local function is_of_server(fault)
  if OF_SERVER[string.match(fault, '^%u+')] then return true end
  for _, text in ipairs(NOT_HERE) do
    if string.find(fault, text) then return true end
  end
  return false
end

-- The text of an error that pcall caught: Redis raises tables, and Lua texts.
local function text_of(fault)
  return type(fault) == 'table' and fault.err or fault
end

-- Raises an error that pcall caught, as a table: Redis would put 'ERR ' before the code of a text.
local function raise(fault)
  error({ err = text_of(fault) })
end

-- Runs a command and returns its reply, or nil if there is no such key or group, or the key is of another type. Raises
-- any other error: a user who may not read a journal must not take it for an empty one.
local function unless_gone(...)
  local found = redis.pcall(...)
  if type(found) ~= 'table' or not found.err then return found end
  for _, gone in ipairs({ '^NOGROUP', '^WRONGTYPE', '^ERR no such key' }) do
    if string.find(found.err, gone) then return nil end
  end
  raise(found)
end

-- Runs a step for one item of a batch. Returns its result (nil if it has none), or 'error …' and true if it failed, so
-- that the other items go on. Raises errors that are about the server.
local function attempt(step, ...)
  local ok, result = pcall(step, ...)
  if ok then return result end
  local fault = text_of(result)
  if is_of_server(fault) then raise(fault) end
  return 'error ' .. fault, true
end

-- Returns the token that holds the lease, or false. A key of another type is no lease: the next bridge takes it.
local function leader()
  return unless_gone('GET', LEASE) or false
end

-- Turns a flat list of names and values, as XRANGE and XINFO return them, into a table.
local function fields_of(list)
  local fields = {}
  for i = 1, #list, 2 do fields[list[i]] = list[i + 1] end
  return fields
end

-- The groups of a stream by name; empty if there is no such stream.
local function groups_of(stream)
  local groups = {}
  for _, row in ipairs(unless_gone('XINFO', 'GROUPS', stream) or {}) do
    local group = fields_of(row)
    groups[group.name] = group
  end
  return groups
end

-- Counts the members of a key with a command such as XLEN. A key of another type has none.
local function count(command, key)
  local found = redis.pcall(command, key)
  if type(found) == 'number' then return found end
  if not string.find(found.err, 'WRONGTYPE') then raise(found) end
  return 0
end

-- Returns the bytes of a key, as Redis estimates them; 0 if it is absent, or Redis does not say them to a user that was
-- made for an earlier version.
local function bytes_of(key)
  local bytes = redis.pcall('MEMORY', 'USAGE', key)
  return type(bytes) == 'number' and bytes or 0
end

-- Counts the entries of a stream that this group has not finished. Redis does not always know the lag: then all count.
local function unfinished(stream, group)
  local length = redis.call('XLEN', stream)
  return group.lag and math.min(length, group.pending + group.lag) or length
end

-- Of a stage that is ordered by key (see read_ordered), an entry of retries, a parked event and a dead letter have
-- `order`, SHA1/POSITION: the key of the event, and its entry in the journal. Both numbers of the entry have 20 digits, so
-- that text order is the order of the journal.
local ZEROS = '00000000000000000000'

local function order_of(key, entry)
  local dash, sub = string.find(entry, '-', 1, true), string.sub
  return key .. '/' .. sub(ZEROS, dash) .. sub(entry, 1, dash) .. sub(ZEROS, #entry - dash + 1) .. sub(entry, dash + 1)
end

-- Returns the key of an order.
local function key_of(order)
  return string.match(order, '^[^/]*')
end

-- When an event of this order was journaled, in milliseconds.
local function time_of(order)
  return string.match(order, '/0*(%d+)')
end

-- From when the deadline of the event of an entry counts. One with `order` alone was not given to the stage yet.
local function since_of(entry, fields)
  return fields.since or fields.order and time_of(fields.order) or string.match(entry, '^%d+')
end

-- When the first entry of a range was journaled, in milliseconds; math.huge if it is empty.
local function journaled_at(stream, from, to)
  local row = redis.call('XRANGE', stream, from, to, 'COUNT', 1)[1]
  return row and tonumber(since_of(row[1], fields_of(row[2]))) or math.huge
end

-- Counts the events of a channel that a stage has not finished, retries and held events included. Returns when the
-- oldest was journaled, too: an event is held while an older one is not finished. Returns how many are held, too.
local function waiting_on(stage, channel)
  local events, oldest = 0, math.huge
  for _, stream in ipairs({ journal_key(channel), retries_key(stage, channel) }) do
    if count('XLEN', stream) > 0 then
      local group = groups_of(stream)[stage] or { pending = 0, ['last-delivered-id'] = '0-0' }
      if group.pending > 0 then
        local first = redis.call('XPENDING', stream, stage)[2]
        oldest = math.min(oldest, journaled_at(stream, first, first))
      end
      oldest = math.min(oldest, journaled_at(stream, '(' .. group['last-delivered-id'], '+'))
      events = events + unfinished(stream, group)
    end
  end
  local held = count('ZCARD', held_key(stage, channel))
  return events + held, oldest, held
end

-- How old something of that time is, in milliseconds; -1 if there is nothing.
local function age(since)
  return since < math.huge and math.max(0, now() - since) or -1
end

-- How often a pending entry was given out; false if it is not pending, or if there is no such group or stream.
local function is_pending(stream, group, entry)
  local found = unless_gone('XPENDING', stream, group, entry, entry, 1)
  return found ~= nil and #found > 0 and found[1][4]
end

-- Returns the two numbers of an entry: milliseconds, and a count within them.
local function numbers_of(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

-- Finds the first and the last entry of rows, and how many there are: stream → { first, last, count }. It compares
-- entries as texts, which is quick. Entries of different lengths may be in the wrong order; `pending_of` then finds fewer
-- rows, and `settle` looks at the others one by one.
local function ranges_of(rows)
  local ranges = {}
  for _, row in ipairs(rows) do
    local entry, range = row.entry, ranges[row.stream]
    if not range then
      ranges[row.stream] = { first = entry, last = entry, count = 1 }
    else
      if entry < range.first then range.first = entry end
      if entry > range.last then range.last = entry end
      range.count = range.count + 1
    end
  end
  return ranges
end

-- Finds which rows, each with `stream` and `entry`, are pending in the group. Returns stream → entry → how often it was
-- given out. It takes one command a stream, which lists the pending entries from the first to the last millisecond of the
-- rows. `settle` looks at each row by itself that is not found here.
local function pending_of(group, ranges)
  local pending = {}
  for stream, range in pairs(ranges) do
    pending[stream] = {}
    if range.count > 1 then
      local first, last = numbers_of(range.first), numbers_of(range.last)
      local found = unless_gone('XPENDING', stream, group, whole(first), whole(last), range.count * 4)
      for _, row in ipairs(found or {}) do pending[stream][row[1]] = row[4] end
    end
  end
  return pending
end

-- Makes the status of a submission expire no earlier than `time` from now, and no earlier than an hour from now. Writes
-- once a minute at most.
local function keep_status(status, time)
  if not time or time < HOUR then time = HOUR end
  if redis.call('PTTL', status) < time - 60000 then redis.call('PEXPIRE', status, time) end
end

-- The same for the statuses of an event, and of the events that it is a part of: the answers of a stage to the event `7`
-- are `7/0`, `7/1` and so on. Stops at one that has no status.
local function keep_statuses_of(id, time)
  repeat
    local status = status_key(id)
    keep_status(status, time)
    id = string.find(id, '/') and string.match(id, '^(.+)/%d+$')
  until not id or redis.call('EXISTS', status) == 0
end

-- Adds a step to the history of an event at a stage, which its status has for operators: how many steps there were, the
-- first and the latest ones. A step is a table: `did`, perhaps an `answer`, `due` (when the event is tried again), and
-- `times`, how often its entry was given out. An event goes on without a history that cannot be written. A step that many
-- events share is encoded once.
local encoded = {}

local function note(id, stage, step)
  if id == '' then return end
  local status, field = status_key(id), HISTORY .. stage
  step.at = now()
  if step.answer then step.answer = string.sub(step.answer, 1, LONGEST_ANSWER) end
  encoded[step] = encoded[step] or cjson.encode({ count = 1, steps = { step } })
  pcall(function()
    if redis.call('HSETNX', status, field, encoded[step]) == 1 then return end
    local history = cjson.decode(redis.call('HGET', status, field))
    history.count = history.count + 1
    table.insert(history.steps, step)
    if #history.steps > MOST_STEPS then table.remove(history.steps, 2) end
    redis.call('HSET', status, field, cjson.encode(history))
  end)
  keep_statuses_of(id)
end

-- Whether this is a row of the stages table as a bridge writes it.
local function is_row(stage)
  if type(stage) ~= 'table' or type(stage.beat) ~= 'number' or type(stage.consumes) ~= 'table' then return false end
  for _, channel in ipairs(stage.consumes) do
    if type(channel) ~= 'string' then return false end
  end
  return true
end

-- Reads the stages table. Returns name → { consumes, emits, url, beat, served }, and whether any bridge is alive.
-- A stage is served while its beat is younger than `fresh`. If no stage has a fresh beat, all bridges are away: then
-- every stage counts as served, so that nothing that waits for it is deleted. Without `fresh` all do.
local function read_stages(fresh)
  local stages, oldest, bridge_alive = {}, fresh and now() - fresh, false
  local table_rows = unless_gone('HGETALL', STAGES) or {}
  for i = 1, #table_rows, 2 do
    local ok, stage = pcall(cjson.decode, table_rows[i + 1])
    if ok and is_row(stage) then
      stage.served = oldest and stage.beat > oldest
      bridge_alive = bridge_alive or stage.served
      stages[table_rows[i]] = stage
    end
  end
  if not bridge_alive then
    for _, stage in pairs(stages) do stage.served = true end
  end
  return stages, bridge_alive
end

-- Whether this stage of the table consumes a channel.
local function consumes(stage, channel)
  for _, consumed in ipairs(stage and stage.consumes or {}) do
    if consumed == channel then return true end
  end
  return false
end

-- Whether a bridge reads this channel for this stage. A stage that now consumes another channel has left a group on the
-- old one, and no bridge reads that group.
local function is_served(stages, name, channel)
  return consumes(stages[name], channel) and stages[name].served
end

-- Whether the other delivery mode has taken over from a stage (see switch): the table has a stage of that mode, and not
-- this one.
local function is_replaced(stages, stage, broker)
  if stages[stage] then return false end
  for name in pairs(stages) do
    if (name == broker) ~= (stage == broker) then return true end
  end
  return false
end

-- Lists the channels that these stages consume: channel → true.
local function consumed_channels(stages)
  local consumed = {}
  for _, stage in pairs(stages) do
    for _, channel in ipairs(stage.consumes) do consumed[channel] = true end
  end
  return consumed
end

local journaled = {}

-- Adds an event to the journal of its channel.
local function add(channel, event)
  local journal = journaled[channel]
  if not journal then
    journal = journal_key(channel)
    redis.call('SADD', JOURNALS, channel)
  end
  local entry = redis.call('XADD', journal, '*', 'event', event)
  journaled[channel] = journal
  return entry
end

-- Bounds a journal that no stage consumes: it keeps the newest 10,000 events of the last hour, and its key expires an
-- hour after the last of them. A journal with a group is left alone. While the stages table is empty no bridge has run
-- yet, and everything is kept. A key that has an expiry was found unconsumed before, so the table is not read again.
local function bound_unconsumed(channel)
  local journal = journal_key(channel)
  local groups = unless_gone('XINFO', 'GROUPS', journal)
  if not groups or #groups > 0 then return end
  local left = redis.call('PTTL', journal)
  if left < 0 then
    local stages = read_stages()
    if not next(stages) or consumed_channels(stages)[channel] then return end
  end
  redis.call('XTRIM', journal, 'MAXLEN', MOST_UNCONSUMED_EVENTS)
  redis.call('XTRIM', journal, 'MINID', whole(now() - HOUR))
  redis.call('PEXPIRE', journal, HOUR)
end

-- Bounds a stream to about MOST_KEPT_BYTES, by the average of its entries. Returns how many entries it deleted.
local function bound_bytes(stream)
  local bytes = bytes_of(stream)
  if bytes <= MOST_KEPT_BYTES then return 0 end
  return redis.call('XTRIM', stream, 'MAXLEN', whole(math.floor(redis.call('XLEN', stream) * MOST_KEPT_BYTES / bytes)))
end

-- Makes a group on a stream, and the stream if it is absent. A journal with a group never expires. Returns false if the
-- group existed.
local function make_group(stream, group, from)
  local made = redis.pcall('XGROUP', 'CREATE', stream, group, from, 'MKSTREAM')
  if made.err and not string.find(made.err, 'BUSYGROUP') then raise(made) end
  redis.call('PERSIST', stream)
  return not made.err
end

-- Writes into the status of a submission that it has reached a channel, when (in microseconds, so that channels keep
-- their order), and with which data. Its caller keeps the status. The status is only for display: if its key is of
-- another type, the event goes on without.
local function write_channel(id, channel, data)
  local noted = redis.pcall('HSET', status_key(id), channel, '{"at":' .. clock() .. ',"data":' .. data .. '}')
  if type(noted) == 'table' and not string.find(noted.err, 'WRONGTYPE') then raise(noted) end
end

-- Writes that, and keeps the status.
local function write_status(id, channel, data)
  write_channel(id, channel, data)
  keep_statuses_of(id)
end

-- Publishes an event on its channel, with its entry as `journalid`.
local function publish_event(event, entry)
  redis.call('PUBLISH', event.channel, '{"journalid":"' .. entry .. '",' .. string.sub(event.event, 2))
end

-- Publishes an event if `announce`, and writes the status.
local function announce_event(event, entry, announce)
  if announce then publish_event(event, entry) end
  write_status(event.id, event.channel, event.data)
end

-- Journals an event, publishes it on its channel if `announce`, and writes the status. If Redis refuses a later write
-- (a user without the right to PUBLISH), the entry is deleted again: Lua does not roll back, and each retry would add
-- one.
local function journal_event(event, announce)
  local entry = add(event.channel, event.event)
  local ok, fault = pcall(announce_event, event, entry, announce)
  if not ok then
    redis.call('XDEL', journal_key(event.channel), entry)
    raise(fault)
  end
end

-- Does the same, once, for an event that may have been published before. Returns 'done' or 'seen'.
local function journal_once(event, announce, dedup)
  local seen = seen_key(event.source_id)
  if not redis.call('SET', seen, 'carried', 'NX', 'PX', dedup) then return 'seen' end
  local ok, fault = pcall(journal_event, event, announce)
  if not ok then
    redis.call('DEL', seen)
    raise(fault)
  end
  return 'done'
end

-- Makes a dead letter, and writes it into the status of its submission. If Redis refuses the status (a user without the
-- right to HSET), the letter is deleted again: Lua does not roll back, and each retry would add one.
local function bury(stage, letter)
  redis.call('SADD', DEAD, stage)
  local entry = redis.call('XADD', dead_key(stage), '*', 'event', letter.event, 'channel', letter.channel, 'id', letter.id,
    'reason', letter.reason, 'status', letter.status, 'attempts', letter.attempts, 'crashes', letter.crashes,
    'time', whole(now()), unpack(letter.order and { 'order', letter.order } or {}))
  if letter.id == '' then return end
  local ok, fault = pcall(function()
    write_channel(letter.id, 'dead:' .. stage, '{"reason":' .. cjson.encode(letter.reason) .. '}')
    note(letter.id, stage, { did = 'buried', answer = letter.reason, times = letter.times })
  end)
  if not ok then
    redis.call('XDEL', dead_key(stage), entry)
    raise(fault)
  end
end

-- Returns the id of an event that Milepost wrote, without JSON's escapes; nil for any other text.
local function id_of(event)
  local ok, id = pcall(cjson.decode, string.match(event, '^{"specversion":"1.0","id":(".-"),"source":"') or 'null')
  return ok and type(id) == 'string' and id or nil
end

-- Makes a dead letter of a member of `parked` or `held` that is not a parked or held event.
local function bury_unparsed(stage, member)
  bury(stage, { event = member, channel = '', id = '', reason = 'cannot be retried: it is not a parked event',
    status = '', attempts = 0, crashes = 0 })
end

-- The hash of keys in hand (in_hand in keys.py) has two fields for an event that is pending or in the retries: key →
-- place, and place → order; and for a parked event one, key → `parked DUE`. A place is one of these letters and the entry.
-- With so long an order Redis keeps the hash as a hash table, however few keys it has: it would look through a list for
-- each key.
local FROM_JOURNAL, FROM_RETRIES = 'j', 'r'

-- Returns the channel of a stream of a stage, and the letter of its entries; nil for another stream.
local function channel_of(stage, stream)
  for letter, prefix in pairs({ [FROM_JOURNAL] = journal_key(''), [FROM_RETRIES] = retries_key(stage, '') }) do
    if string.sub(stream, 1, #prefix) == prefix then return string.sub(stream, #prefix + 1), letter end
  end
end

-- Puts an event into its stage's stream of retries, which is read before unread events. One with `order` is then the
-- event of its key that is in hand. An event that the stage was not given yet has '-' for its time and its counts.
local function retry(stage, channel, event, since, attempts, crashes, order)
  local retries, tried = retries_key(stage, channel), { 'since', since, 'attempts', attempts, 'crashes', crashes }
  if not order then
    redis.call('XADD', retries, '*', 'event', event, unpack(tried))
    return
  end
  local entry = redis.call('XADD', retries, '*', 'event', event, 'order', order, unpack(since ~= '-' and tried or {}))
  local place = FROM_RETRIES .. entry
  local ok, fault = pcall(redis.call, 'HSET', in_hand_key(stage, channel), key_of(order), place, place, order)
  if not ok then
    redis.call('XDEL', retries, entry)
    raise(fault)
  end
end

-- Writes that the event of this order is the one of its key in hand, and that it is parked until that time.
local function set_parked(stage, channel, order, due)
  redis.call('HSET', in_hand_key(stage, channel), key_of(order), 'parked ' .. whole(due))
end

-- Returns since, attempts, crashes, channel, order (nil if it has none) and event of a parked event; nothing for any
-- other text.
local function read_parked(member)
  local since, attempts, crashes, channel, order, event =
    string.match(member, '^%S+ (%d+) (%d+) (%d+) (%S+) ?(%S*)\n(.*)$')
  return since, attempts, crashes, channel, order ~= '' and order or nil, event
end

-- Returns order, since, attempts, crashes and event of a held event. The three are '-' if the stage was not given it yet.
local function read_held(member)
  return string.match(member, '^(%S+) (%S+) (%S+) (%S+)\n(.*)$')
end

-- Unblocks a key whose event in hand is finished: the next event of the key goes into the retries. Without one
-- the key is forgotten.
local function unblock(stage, channel, key)
  local held = held_key(stage, channel)
  local member = redis.call('ZRANGEBYLEX', held, '[' .. key .. '/', '(' .. key .. '0', 'LIMIT', 0, 1)[1]  -- 0 is after /
  if not member then
    redis.call('HDEL', in_hand_key(stage, channel), key)
    return
  end
  local order, since, attempts, crashes, event = read_held(member)
  if event then
    retry(stage, channel, event, since, attempts, crashes, order)
    redis.call('ZREM', held, member)
  else
    bury_unparsed(stage, member)
    redis.call('ZREM', held, member)
    unblock(stage, channel, key)
  end
end

-- Removes places from the hash of keys in hand, and unblocks many keys. If no event is held at all, which is usual, the
-- keys are only forgotten.
local function unblock_all(stage, channel, places, keys)
  if redis.call('EXISTS', held_key(stage, channel)) == 0 then
    for _, key in ipairs(keys) do places[#places + 1] = key end
    keys = {}
  end
  redis.call('HDEL', in_hand_key(stage, channel), unpack(places))
  for _, key in ipairs(keys) do attempt(unblock, stage, channel, key) end
end

-- Finds which rows of a stage have a key in hand. Returns stream → { channel, letter, orders (entry → order), gone, freed }.
-- settle fills the last two: the places of the rows that it settled, and their keys that it is to unblock.
local function in_hand_of(stage, rows, ranges)
  local found = {}
  for stream in pairs(ranges) do
    local channel, letter = channel_of(stage, stream)
    if channel and redis.pcall('EXISTS', in_hand_key(stage, channel)) == 1 then  -- a user may have no right to it
      local entries, places, orders = {}, {}, {}
      for _, row in ipairs(rows) do
        if row.stream == stream then
          local count = #entries + 1
          entries[count], places[count] = row.entry, letter .. row.entry
        end
      end
      local known = unless_gone('HMGET', in_hand_key(stage, channel), unpack(places)) or {}
      for i, order in ipairs(known) do orders[entries[i]] = order end
      found[stream] = { channel = channel, letter = letter, orders = orders, gone = {}, freed = {} }
    end
  end
  return found
end

-- Settles rows of one group, each with `stream` and `entry`:
-- 1. If the entry is not pending any more, someone else has settled it. The result is 'stale'.
-- 2. step(row) makes the write that Redis may refuse (a reply, a parked event, a dead letter) and returns the result.
--    `row.times` is how often the entry was given out, `row.order` the order of an event that has its key in hand.
-- 3. The entry is acknowledged last: Lua does not roll back, so an event whose write was refused stays pending.
-- 4. Retries are deleted too, because no other group reads them. trim deletes entries of journals.
-- 5. The key of an event with `order` is unblocked, unless the step has kept the event in hand (`row.kept`).
local function settle(group, rows, step)
  local ranges = ranges_of(rows)
  local pending, in_hand, finished, answers = pending_of(group, ranges), in_hand_of(group, rows, ranges), {}, {}
  local ok, fault = pcall(function()
    for i, row in ipairs(rows) do
      local known, entry, ordered = pending[row.stream], row.entry, in_hand[row.stream]
      if known[entry] == nil then known[entry] = is_pending(row.stream, group, entry) end
      if known[entry] then
        row.times = known[entry]
        row.order = ordered and ordered.orders[entry] or nil
        local answer, failed = attempt(step, row)
        answers[i] = answer
        if not failed then
          known[entry] = false
          local entries = finished[row.stream] or {}
          entries[#entries + 1], finished[row.stream] = entry, entries
          if row.order then
            ordered.gone[#ordered.gone + 1] = ordered.letter .. entry
            if not row.kept then ordered.freed[#ordered.freed + 1] = key_of(row.order) end
          end
        end
      else
        answers[i] = 'stale'
      end
    end
  end)
  for stream, entries in pairs(finished) do
    redis.call('XACK', stream, group, unpack(entries))
    if string.sub(stream, 1, #RETRIES) == RETRIES then redis.call('XDEL', stream, unpack(entries)) end
  end
  -- The entries are settled. A key that cannot be unblocked now is found by unblock_lost.
  for _, ordered in pairs(in_hand) do
    if ordered.gone[1] then attempt(unblock_all, group, ordered.channel, ordered.gone, ordered.freed) end
  end
  if not ok then raise(fault) end
  return answers
end

-- Counts events. Returns:
-- total    all journaled, parked and dead events
-- counted  those of them that a served stage needs; BACKLOG_LIMIT is for these
-- closed   the channels of which no stage is served and `limit` events or more wait; doors refuse events for them
local function count_backlog(fresh, limit)
  local stages = read_stages(fresh)
  local total, counted, closed = 0, 0, {}
  for _, channel in ipairs(redis.call('SMEMBERS', JOURNALS)) do
    local journal = journal_key(channel)
    local needed, waiting, served, grouped = 0, 0, false, false
    for name, group in pairs(groups_of(journal)) do
      local left = unfinished(journal, group)
      grouped = true
      waiting = math.max(waiting, left)
      if is_served(stages, name, channel) then
        served = true
        needed = math.max(needed, left)
      end
    end
    if not grouped and redis.call('PTTL', journal) == -1 then
      needed = count('XLEN', journal)
      waiting = needed
    end
    if grouped and not served and waiting >= limit then closed[#closed + 1] = channel end
    total, counted = total + waiting, counted + needed
  end
  local names = {}
  for _, name in ipairs(unless_gone('SMEMBERS', DEAD) or {}) do names[name] = true end
  for name in pairs(stages) do names[name] = true end
  for name in pairs(names) do
    local waiting = count('ZCARD', parked_key(name)) + count('XLEN', dead_key(name))
    for _, channel in ipairs(stages[name] and stages[name].consumes or {}) do
      waiting = waiting + count('XLEN', retries_key(name, channel)) + count('ZCARD', held_key(name, channel))
    end
    total = total + waiting
    if not stages[name] or stages[name].served then counted = counted + waiting end
  end
  return total, counted, closed
end
