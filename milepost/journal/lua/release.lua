-- release: frees the lease if this token holds it, and tells the others to try at once. For a moment only those who
-- heard that may take it: what is published until then is known to them alone.
local journals, lease = key(), key()
local token, handover = arg(), arg()
if redis.call('GET', lease) ~= token then return 0 end
defy_full(journals)
redis.call('SET', lease, '', 'PX', handover)
redis.call('PUBLISH', lease, '')
return 1
