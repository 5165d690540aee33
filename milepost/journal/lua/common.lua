-- What every script shares; put before each of them. A script reads KEYS and ARGV front to back with key() and arg().
-- The times are Redis's own, in milliseconds. Events pass through as text: cjson would round their numbers.

local keys_read, args_read = 0, 0

local function key()
  keys_read = keys_read + 1
  return KEYS[keys_read]
end

local function arg()
  args_read = args_read + 1
  return ARGV[args_read]
end

local function more()
  return args_read < #ARGV
end

local function whole(number)
  return string.format('%.0f', number)
end

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A write that changes nothing and that a full Redis allows: what a script writes after it is not refused.
local function defy_full(journals)
  redis.call('XACK', journals .. ':none', 'none', '0-0')
end

-- Runs a step and answers for it alone: its result, or its error as text. One entry cannot fail the batch.
local function attempt(step, ...)
  local ok, result = pcall(step, ...)
  if ok then return result end
  return 'error ' .. (type(result) == 'table' and result.err or tostring(result))
end

-- A command's answer, or nil where there is no such stream or group. Any other refusal is raised: a replica without its
-- primary refuses reads too, and that must not look like an empty journal.
local function unless_gone(...)
  local found = redis.pcall(...)
  if type(found) ~= 'table' or not found.err then return found end
  local code = string.match(found.err, '^%u+')
  if code ~= 'NOGROUP' and code ~= 'ERR' and code ~= 'WRONGTYPE' then error(found, 0) end
  return nil
end

-- Whether the group still has this entry on its books. No group, no stream: no.
local function pending(journal, group, id)
  local found = unless_gone('XPENDING', journal, group, id, id, 1)
  return found and #found > 0
end

-- What the stages table says; with `fresh`, of those alone whose beat is not as old as that.
local function wiring(stages, fresh)
  local consumed, emitted = {}, {}
  local oldest = fresh and now() - fresh
  for _, text in ipairs(redis.call('HVALS', stages)) do
    local stage = cjson.decode(text)
    if not fresh or stage.beat > oldest then
      for _, channel in ipairs(stage.consumes) do consumed[channel] = true end
      for _, channel in ipairs(stage.emits) do emitted[channel] = true end
    end
  end
  return { consumed = consumed, emitted = emitted }
end

-- Every channel is journaled but those that a stage emits and none consumes. Whoever changes the stages table keeps the
-- set of these, so that no event has to read the table.
local function keep_announced(stages, announced)
  local known = wiring(stages)
  redis.call('DEL', announced)
  for channel in pairs(known.emitted) do
    if not known.consumed[channel] then redis.call('SADD', announced, channel) end
  end
end

local function is_journaled(announced, channel)
  return redis.call('SISMEMBER', announced, channel) == 0
end

-- Adds an event to a journal. What is left out means: for every route, since the entry's own time, never tried.
local function add(journals, journal, channel, event, fields)
  local id = redis.call('XADD', journal, '*', 'event', event, unpack(fields or {}))
  redis.call('SADD', journals, channel)
  return id
end

-- Microseconds here, so that the channels of one submission keep their order.
local function note(progress, channel, data, ttl)
  local time = redis.call('TIME')
  redis.call('HSET', progress, channel, '{"at":' .. whole(time[1] * 1000000 + time[2]) .. ',"data":' .. data .. '}')
  redis.call('PEXPIRE', progress, ttl)
end

-- An event as a door or a reply hands it over.
local function read_event()
  return { journal = key(), seen = key(), progress = key(), channel = arg(), text = arg(), data = arg() }
end

-- Journals an event if its channel is, marks it as seen, tells the channel if asked to, notes its progress.
-- Lua does not roll back: should a later step be refused (a user without the right to PUBLISH), the entry and the mark
-- go again. Otherwise each further try would add another entry.
local function carry(context, event, tell)
  local message, id = event.text, nil
  if is_journaled(context.announced, event.channel) then
    id = add(context.journals, event.journal, event.channel, event.text)
    message = '{"journalid":"' .. id .. '",' .. string.sub(event.text, 2)
  end
  local told, fault = pcall(function()
    redis.call('SET', event.seen, id and 'carried' or 'announced', 'PX', context.dedup)
    if tell then redis.call('PUBLISH', event.channel, message) end
    note(event.progress, event.channel, event.data, id and context.ttl or math.min(context.ttl, 3600000))
  end)
  if not told then
    if id then redis.call('XDEL', event.journal, id) end
    redis.call('DEL', event.seen)
    error(fault, 0)
  end
end

-- The same for an event that comes through a door and may have come before. One that was announced while no stage
-- consumed its channel is journaled now if one does, and not announced again.
local function carry_once(context, event, tell)
  local seen = redis.call('GET', event.seen)
  if seen == 'carried' or (seen and not is_journaled(context.announced, event.channel)) then return 'seen' end
  carry(context, event, tell and not seen)
  return 'done'
end

local function bury(graves, dead, progress, stage, letter, ttl)
  redis.call('XADD', dead, '*', 'event', letter.event, 'channel', letter.channel, 'id', letter.id,
    'reason', letter.reason, 'status', letter.status, 'attempts', letter.attempts, 'crashes', letter.crashes,
    'for', letter.only, 'time', whole(now()))
  redis.call('SADD', graves, stage)
  note(progress, 'dead:' .. stage, '{"reason":' .. cjson.encode(letter.reason) .. '}', ttl)
end

-- Journaled, parked and dead events.
local function backlog(journals, stages, graves, journal_of, waiting_of, dead_of)
  local total = 0
  for _, channel in ipairs(redis.call('SMEMBERS', journals)) do
    total = total + redis.call('XLEN', journal_of .. channel)
  end
  for _, stage in ipairs(redis.call('HKEYS', stages)) do
    total = total + redis.call('ZCARD', waiting_of .. stage)
  end
  for _, stage in ipairs(redis.call('SMEMBERS', graves)) do
    total = total + redis.call('XLEN', dead_of .. stage)
  end
  return total
end
