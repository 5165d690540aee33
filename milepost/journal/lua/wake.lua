-- wake: puts parked events that are due back into their journals, for the route that parked them alone. Answers how
-- many, and in how many milliseconds the next is due (-1: none waits). One that cannot be woken stays, holds up no
-- other, and is the answer.
local journals = key()
local journal_of, most = arg(), tonumber(arg())
local time = now()
local woken, next_due, fault = 0, -1, nil
defy_full(journals)

local function wake(waiting, route, member)
  local since, attempts, crashes, channel, event =
    string.match(member, '^%S+ (%d+) (%d+) (%d+) (%S+)\n(.*)$')
  add(journals, journal_of .. channel, channel, event,
    { 'for', route, 'since', since, 'attempts', attempts, 'crashes', crashes })
  redis.call('ZREM', waiting, member)
  return 'done'
end

while more() do
  local waiting, route = key(), arg()
  local bytes = 0
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', waiting, '-inf', whole(time), 'LIMIT', 0, most)) do
    bytes = bytes + #member
    if bytes > 8000000 then break end  -- the rest is due at once
    local answer = attempt(wake, waiting, route, member)
    if answer == 'done' then woken = woken + 1 else fault = answer end
  end
  local first = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')
  if first[2] then
    local due = math.max(0, tonumber(first[2]) - time)
    if next_due < 0 or due < next_due then next_due = due end
  end
end
if fault then return redis.error_reply(string.sub(fault, 7)) end
return { woken, next_due }
