-- lease(token, ttl, known)
-- Takes the lease if it is free, or renews it if this token holds it. Publishes the token that holds the lease on the
-- lease's channel if it takes it, or if the caller does not know it: `known` is the token that it received last. A
-- bridge that takes the lease may know itself and still have to receive the token of one that led since. After a clean
-- stop of the leader the lease is '' for a moment: then only a bridge that received that, too, may take it. Returns the
-- token that holds the lease, or ''.
local holder = leader()
local taken = not holder or (holder == '' and known == '')
if taken then
  write_when_full()
  redis.call('SET', LEASE, token, 'PX', ttl)
  holder = token
elseif holder == token then
  redis.call('PEXPIRE', LEASE, ttl)
else
  -- If the server's clock was set back, or another program wrote the key, the lease of a dead bridge would last.
  local left = redis.call('PTTL', LEASE)
  if left == -1 or left > 10 * ttl then redis.call('PEXPIRE', LEASE, ttl) end
end
if taken or (holder ~= '' and holder ~= known) then redis.call('PUBLISH', LEASE, holder) end
return holder
