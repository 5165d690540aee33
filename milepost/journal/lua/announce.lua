-- announce (broker mode): tells a channel what a Broker has already carried on, and marks it so that no bridge
-- adopts it.
local stages = key()
local known = wiring(stages)
local dedup, ttl = arg(), tonumber(arg())
local answers = {}
local function tell(event)
  if redis.call('GET', event.seen) == 'carried' then return 'seen' end
  redis.call('SET', event.seen, 'carried', 'PX', dedup)
  redis.call('PUBLISH', event.channel, event.text)
  note(event.progress, event.channel, event.data, known.consumed[event.channel] and ttl or math.min(ttl, 3600000))
  return 'done'
end
while more() do
  answers[#answers + 1] = attempt(tell, read_event())
end
return answers
