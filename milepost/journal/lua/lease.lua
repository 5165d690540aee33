-- lease: takes it if it is free, or renews it, and tells its channel when it is taken or when asked to tell again.
-- Answers the token that holds it.
local journals, lease = key(), key()
local token, ttl, tell = arg(), arg(), arg() == 'tell'
local holder = redis.call('GET', lease)
if not holder then
  defy_full(journals)
  redis.call('SET', lease, token, 'PX', ttl)
  holder, tell = token, true
elseif holder == token then
  redis.call('PEXPIRE', lease, ttl)
end
if holder == token and tell then redis.call('PUBLISH', lease, token) end
return holder
