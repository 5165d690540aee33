-- publish(limit, fresh, most_unconsumed, trusted, dedup, events[channel, source_id, id, event, data])
-- Journals each event that was not published before, and publishes it on its channel.
-- Returns for each event:
-- 'done'
-- 'seen'     it was published before, perhaps by this very call, whose answer was lost
-- 'full'     the backlog is at its limit
-- 'crowded'  no stage consumes its channel, and too many such channels exist
-- 'closed'   no bridge serves the stages of its channel, and too many events wait for them
-- 'error …'  Redis refused it

-- Counting reads every journal, so it is done once in `trusted` milliseconds. Meanwhile doors add the events that they
-- journal; events that hops add or finish are counted the next time.
-- The time of the count is in it, because keys expire late when the clock of Redis is set back.
local known = unless_gone('GET', BACKLOG)  -- of another type it is written anew
local counted, counted_at, closed = string.match(known or '', '^(%d+) (%d+)(\n.*)$')
counted = tonumber(counted)
if not counted or math.abs(now() - tonumber(counted_at)) > trusted then
  local _, channels
  _, counted, channels = count_backlog(fresh, limit)
  counted_at, closed = whole(now()), '\n' .. table.concat(channels, '\n') .. '\n'
  redis.pcall('SET', BACKLOG, whole(counted) .. ' ' .. counted_at .. closed, 'PX', trusted)  -- refused by a full Redis
end

local consumed

-- Whether this event would begin one more channel that no stage consumes, and there are too many already.
local function is_crowded(channel)
  if redis.call('SISMEMBER', JOURNALS, channel) == 1 then return false end
  if redis.call('SCARD', JOURNALS) < most_unconsumed then return false end
  consumed = consumed or consumed_channels(read_stages())
  if consumed[channel] then return false end
  local unconsumed = 0
  for _, other in ipairs(redis.call('SMEMBERS', JOURNALS)) do
    if not consumed[other] then unconsumed = unconsumed + 1 end
  end
  return unconsumed >= most_unconsumed
end

-- Why no new event of this channel is taken, or nil.
local function refusal(channel)
  if counted >= limit then return 'full' end
  if string.find(closed, '\n' .. channel .. '\n', 1, true) then return 'closed' end
  return is_crowded(channel) and 'crowded' or nil
end

local answers, channels, added = {}, {}, 0
for _, event in ipairs(events) do
  local answer = refusal(event.channel)
  if not answer then
    answer = attempt(journal_once, event, true, dedup)
  elseif redis.call('EXISTS', seen_key(event.source_id)) == 1 then
    answer = 'seen'
  end
  if answer == 'done' then
    added = added + 1
    channels[event.channel] = true
  end
  answers[#answers + 1] = answer
end
for channel in pairs(channels) do bound_unconsumed(channel) end
if added > 0 then redis.call('SET', BACKLOG, whole(counted + added) .. ' ' .. counted_at .. closed, 'KEEPTTL') end
return answers
