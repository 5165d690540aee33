-- publish(limit, fresh, most_unconsumed, trusted, dedup, events[channel, source_id, id, event, data])
-- Journals each event that was not published before, and publishes it on its channel.
-- Returns 'full', and writes nothing, while the backlog is at its limit. Else returns for each event:
-- 'done'
-- 'seen'     it was published before
-- 'crowded'  no stage consumes its channel, and too many such channels exist
-- 'closed'   no bridge serves the stages of its channel, and too many events wait for them
-- 'error …'  Redis refused it

-- Counting reads every journal, so it is done once in `trusted` milliseconds. Meanwhile doors add the events that they
-- journal; events that hops add or finish are counted the next time.
local known = unless_gone('GET', BACKLOG)  -- of another type it is written anew
local counted = known and tonumber(string.match(known, '^%d+'))
if not counted then
  local _, closed
  _, counted, closed = count_backlog(fresh, limit)
  known = whole(counted) .. '\n' .. table.concat(closed, '\n') .. '\n'
  redis.pcall('SET', BACKLOG, known, 'PX', trusted)  -- a full Redis refuses it, and then every event
end
if counted >= limit then return 'full' end
local closed = string.match(known, '^%d+(.*)$')

local consumed

-- Whether this event would begin one more channel that no stage consumes, and there are too many already.
local function is_crowded(channel)
  if redis.call('SISMEMBER', JOURNALS, channel) == 1 then return false end
  if redis.call('SCARD', JOURNALS) < most_unconsumed then return false end
  consumed = consumed or consumed_channels(read_stages(fresh))
  if consumed[channel] then return false end
  local unconsumed = 0
  for _, other in ipairs(redis.call('SMEMBERS', JOURNALS)) do
    if not consumed[other] then unconsumed = unconsumed + 1 end
  end
  return unconsumed >= most_unconsumed
end

local answers, channels, added = {}, {}, 0
for _, event in ipairs(events) do
  local answer
  if string.find(closed, '\n' .. event.channel .. '\n', 1, true) then
    answer = 'closed'
  elseif is_crowded(event.channel) then
    answer = 'crowded'
  else
    answer = attempt(journal_once, event, true, dedup)
  end
  if answer == 'done' then
    added = added + 1
    channels[event.channel] = true
  end
  answers[#answers + 1] = answer
end
for channel in pairs(channels) do bound_unconsumed(channel) end
if added > 0 then redis.call('SET', BACKLOG, whole(counted + added) .. closed, 'XX', 'KEEPTTL') end
return answers
