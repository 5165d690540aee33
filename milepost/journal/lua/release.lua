-- release(token, handover)
-- Releases the lease if this token holds it, and publishes '' on the lease's channel. For `handover` milliseconds only
-- bridges that received this may take the lease, so the next leader has every message that was published since. Returns
-- 1, or 0 if the token did not hold the lease.
if leader() ~= token then return 0 end
write_when_full()
redis.call('SET', LEASE, '', 'PX', handover)
redis.call('PUBLISH', LEASE, '')
return 1
