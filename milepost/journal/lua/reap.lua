-- reap(stage, consumer, idle, streams[stream])
-- Deletes the consumers of dead processes, if they have nothing pending: Redis drops the pending entries of a consumer
-- that is deleted. Returns how many.
local reaped = 0
for _, row in ipairs(streams) do
  for _, list in ipairs(unless_gone('XINFO', 'CONSUMERS', row.stream, stage) or {}) do
    local other = fields_of(list)
    if other.name ~= consumer and other.pending == 0 and other.idle > idle then
      redis.call('XGROUP', 'DELCONSUMER', row.stream, stage, other.name)
      reaped = reaped + 1
    end
  end
end
return reaped
