-- unreadable: keeps messages the bridge itself cannot carry, the newest of them. Answers how many older ones fell out.
local journals, dead = key(), key()
local most = tonumber(arg())
defy_full(journals)
while more() do
  redis.call('XADD', dead, '*', 'event', arg(), 'channel', arg(), 'id', '', 'reason', arg(), 'status', '',
    'attempts', '0', 'crashes', '0', 'for', '', 'time', whole(now()))
end
return redis.call('XTRIM', dead, 'MAXLEN', most)
