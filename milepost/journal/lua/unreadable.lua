-- unreadable: keeps messages the bridge itself cannot carry, the newest of them; a full Redis has no room for them.
-- Answers how many older ones fell out.
local graves, dead = key(), key()
local most = tonumber(arg())
while more() do
  redis.call('XADD', dead, '*', 'event', arg(), 'channel', arg(), 'id', '', 'reason', arg(), 'status', '',
    'attempts', '0', 'crashes', '0', 'for', '', 'time', whole(now()))
end
redis.call('SADD', graves, 'bridge')
return redis.call('XTRIM', dead, 'MAXLEN', most)
