-- publish: journals each event that was not seen before and tells its channel. Nothing is written while the backlog is
-- over its limit, nor the first event of one more channel when too many wait without a stage to consume them.
local stages, announced, journals, graves, known = key(), key(), key(), key(), key()
local limit, most, trusted = tonumber(arg()), tonumber(arg()), arg()
local journal_of, waiting_of, dead_of = arg(), arg(), arg()
local context = { journals = journals, announced = announced, dedup = arg(), ttl = tonumber(arg()) }

-- Counting looks at every journal, so it is done once in `trusted` milliseconds. Meanwhile doors add what they journal;
-- what hops add or take shows at the next count.
local total = tonumber(redis.call('GET', known) or '')
if not total then
  total = backlog(journals, stages, graves, journal_of, waiting_of, dead_of)
  redis.pcall('SET', known, total, 'PX', trusted)  -- refused by a full Redis, as is then every event
end
if total >= limit then return 'full' end

local consumed, consumed_channels

local function crowded(channel)
  local begun = redis.call('SCARD', journals)
  if begun < most or redis.call('SISMEMBER', journals, channel) == 1 then return false end
  if not consumed then
    consumed, consumed_channels = wiring(stages).consumed, 0
    for _ in pairs(consumed) do consumed_channels = consumed_channels + 1 end
  end
  return begun >= most + consumed_channels and not consumed[channel] and is_journaled(announced, channel)
end

local answers, added = {}, 0
while more() do
  local event = read_event()
  local answer = crowded(event.channel) and 'crowded' or attempt(carry_once, context, event, true)
  if answer == 'done' and is_journaled(announced, event.channel) then added = added + 1 end
  answers[#answers + 1] = answer
end
if added > 0 then redis.call('SET', known, total + added, 'XX', 'KEEPTTL') end
return answers
