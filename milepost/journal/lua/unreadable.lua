-- unreadable(most, messages[event, channel, reason])
-- Keeps messages that the bridge itself cannot carry, the newest `most` of them. A full Redis refuses it. Answers how
-- many older ones were removed.
local dead = dead_key('bridge')
redis.call('SADD', DEAD, 'bridge')
for _, message in ipairs(messages) do
  redis.call('XADD', dead, '*', 'event', message.event, 'channel', message.channel, 'id', '', 'reason', message.reason,
    'status', '', 'attempts', '0', 'crashes', '0', 'time', whole(now()))
end
return redis.call('XTRIM', dead, 'MAXLEN', most)
