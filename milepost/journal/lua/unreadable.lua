-- unreadable(most, messages[event, channel, reason])
-- Keeps PUBLISHed messages that are no events as dead letters of `bridge`, the newest `most` of them and about 32 MB. A
-- full Redis refuses it. Returns how many older ones it removed.
local dead = dead_key('bridge')
redis.call('SADD', DEAD, 'bridge')
for _, message in ipairs(messages) do
  redis.call('XADD', dead, '*', 'event', message.event, 'channel', message.channel, 'id', '', 'reason', message.reason,
    'status', '', 'attempts', '0', 'crashes', '0', 'time', whole(now()))
end
return redis.call('XTRIM', dead, 'MAXLEN', most) + bound_bytes(dead)
