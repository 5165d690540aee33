-- announce(dedup, channel, source_id, id, event, data)
-- Broker mode: publishes an event that a Broker delivers by itself. The dedup mark keeps bridges from adopting it.
-- Returns 'done' or 'seen'.
local seen = seen_key(source_id)
if not redis.call('SET', seen, 'carried', 'NX', 'PX', dedup) then return 'seen' end
local ok, fault = pcall(function()
  redis.call('PUBLISH', channel, event)
  write_status(id, channel, data)
end)
if not ok then
  redis.call('DEL', seen)
  raise(fault)
end
return 'done'
