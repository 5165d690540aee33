-- bury_given_up(stage, channel, event, id, reason, status, attempts, route)
-- Broker mode: keeps an event that a Broker gave up on. It is replayed for `route`.
bury(stage, { event = event, channel = channel, id = id, reason = reason, status = status, attempts = attempts,
  crashes = 0, route = route })
return 1
