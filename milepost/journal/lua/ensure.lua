-- ensure: makes a group, from the journal's beginning, where it is missing.
local journals, journal = key(), key()
local channel, group = arg(), arg()
defy_full(journals)
local made = redis.pcall('XGROUP', 'CREATE', journal, group, '0', 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP') then return made end
redis.call('SADD', journals, channel)
return made.err and 0 or 1
