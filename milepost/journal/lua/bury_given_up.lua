-- bury_given_up(stage, channel, event, id, reason, status, attempts)
-- Broker mode: makes a dead letter of an event that a Broker gave up. A replay gives it to the Broker again.
-- Does nothing if it is among the latest 16 dead letters already: a Broker that missed our response sends it again.
-- A full Redis takes it: the event was accepted once, and the Broker gives up for good.
write_when_full()
for _, letter in ipairs(redis.call('XREVRANGE', dead_key(stage), '+', '-', 'COUNT', 16)) do
  local fields = fields_of(letter[2])
  if fields.event == event and fields.channel == channel then return end
end
bury(stage, { event = event, channel = channel, id = id, reason = reason, status = status, attempts = attempts,
  crashes = 0 })
