-- bury: keeps an event that a Broker gave up on (its dead-letter sink).
local graves, dead, progress = key(), key(), key()
local stage, ttl = arg(), arg()
bury(graves, dead, progress, stage, { event = arg(), channel = arg(), id = arg(), reason = arg(), status = arg(),
  attempts = arg(), crashes = '0', only = arg() }, ttl)
return 1
