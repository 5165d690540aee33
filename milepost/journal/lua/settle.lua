-- settle: completes, parks or buries deliveries of one group, or holds what is not due yet. Each passes the gate (the
-- group still has the entry), does its own write, which may fail, and acknowledges last: an event leaves one place as
-- it enters the next.
local announced, journals, journal, waiting, graves, dead = key(), key(), key(), key(), key(), key()
local group = arg()
local context = { journals = journals, announced = announced, dedup = arg(), ttl = tonumber(arg()) }
local deadline = tonumber(arg())
defy_full(journals)

local function read_letter()
  return { event = arg(), channel = arg(), id = arg(), reason = arg(), status = arg(), attempts = arg(),
    crashes = arg(), only = arg() }
end

local function wait(due, id, since, letter)
  local head = table.concat({ id, whole(since), letter.attempts, letter.crashes, letter.channel }, ' ')
  redis.call('ZADD', waiting, whole(due), head .. '\n' .. letter.event)
end

local steps = {
  complete = function(act)
    if act.reply then carry(context, act.reply, true) end
    return 'done'
  end,
  bury = function(act)
    bury(graves, dead, act.progress, group, act.letter, context.ttl)
    return 'buried'
  end,
}

function steps.park(act)
  local letter = act.letter
  if now() - act.since >= deadline then
    letter.reason = 'deadline passed; last: ' .. letter.reason
    return steps.bury(act)
  end
  wait(now() + act.delay, act.id, act.since, letter)
  return 'done'
end

function steps.hold(act)
  local due = act.since + act.delay
  wait(due, act.id, due, { attempts = 0, crashes = 0, channel = act.channel, event = act.event })
  return 'done'
end

local function read_act()
  local act = { kind = arg(), id = arg() }
  if act.kind == 'complete' then
    if arg() == 'reply' then act.reply = read_event() end
  elseif act.kind == 'hold' then
    act.event, act.channel, act.since, act.delay = arg(), arg(), tonumber(arg()), tonumber(arg())
  else
    act.progress, act.letter = key(), read_letter()
    act.since, act.delay = tonumber(arg()), tonumber(arg())
  end
  return act
end

local function settle(act)
  if not pending(journal, group, act.id) then return 'stale' end
  local answer = steps[act.kind](act)
  redis.call('XACK', journal, group, act.id)
  return answer
end

local answers = {}
while more() do
  answers[#answers + 1] = attempt(settle, read_act())
end
return answers
