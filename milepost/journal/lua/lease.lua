-- lease: takes it if it is free, or renews it, and tells its channel when it is taken or when asked to tell again.
-- Answers the token that holds it; an empty one while it is kept for those who heard a leader free it.
local journals, lease = key(), key()
local token, ttl, tell, heard = arg(), arg(), arg() == 'tell', arg() == 'heard'
local holder = redis.call('GET', lease)
if not holder or (holder == '' and heard) then
  defy_full(journals)
  redis.call('SET', lease, token, 'PX', ttl)
  holder, tell = token, true
elseif holder == token then
  redis.call('PEXPIRE', lease, ttl)
end
if holder == token and tell then redis.call('PUBLISH', lease, token) end
return holder
