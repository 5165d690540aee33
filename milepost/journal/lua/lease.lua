-- lease(token, ttl, announce, received)
-- Takes the lease if it is free, or renews it if this token holds it. Publishes the token on the lease's channel when
-- the lease is taken, and when `announce` is 1. After a clean stop of the leader the lease is '' for a moment: then
-- only a bridge that `received` the release may take it. Returns the token that holds the lease, or ''.
local holder = leader()
if not holder or (holder == '' and received == 1) then
  write_when_full()
  redis.call('SET', LEASE, token, 'PX', ttl)
  holder, announce = token, 1
elseif holder == token then
  redis.call('PEXPIRE', LEASE, ttl)
else
  -- If the server's clock was set back, or another program wrote the key, the lease of a dead bridge would last.
  local left = redis.call('PTTL', LEASE)
  if left == -1 or left > 10 * ttl then redis.call('PEXPIRE', LEASE, ttl) end
end
if holder == token and announce == 1 then redis.call('PUBLISH', LEASE, token) end
return holder
