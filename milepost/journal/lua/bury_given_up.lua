-- bury_given_up(stage, channel, event, id, reason, status, attempts)
-- Broker mode: keeps an event that a Broker gave up on. A replay gives it to the Broker again (see replay).
bury(stage, { event = event, channel = channel, id = id, reason = reason, status = status, attempts = attempts,
  crashes = 0 })
return 1
