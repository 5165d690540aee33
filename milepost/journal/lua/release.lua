-- release: frees the lease if this token holds it, and tells the others to try at once.
local lease = key()
if redis.call('GET', lease) ~= arg() then return 0 end
redis.call('DEL', lease)
redis.call('PUBLISH', lease, '')
return 1
