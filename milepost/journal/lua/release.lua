-- release(token, handover)
-- Releases the lease if this token holds it, and announces that. For `handover` milliseconds only bridges that received
-- the release may take the lease, so the next leader has every message that was published since. Answers 1, or 0 if the
-- token did not hold it.
if leader() ~= token then return 0 end
write_when_full()
redis.call('SET', LEASE, '', 'PX', handover)
redis.call('PUBLISH', LEASE, '')
return 1
