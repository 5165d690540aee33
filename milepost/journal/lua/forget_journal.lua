-- forget_journal: deletes a journal that no stage consumes. Answers how many events went, or -1 if one does.
local stages, journals, journal = key(), key(), key()
local channel = arg()
local groups = redis.pcall('XINFO', 'GROUPS', journal)
if wiring(stages).consumed[channel] or (not groups.err and #groups > 0) then return -1 end
local length = groups.err and 0 or redis.call('XLEN', journal)
redis.call('DEL', journal)
redis.call('SREM', journals, channel)
return length
