-- hand_back(stage, consumer, claim, most, streams[stream])
-- At a clean stop: marks all pending entries of this consumer as not renewed for the claim time, so that another
-- consumer takes them over at once. That includes entries of a read whose reply was lost. Returns how many.
local count = 0
for _, row in ipairs(streams) do
  for _, pending in ipairs(unless_gone('XPENDING', row.stream, stage, '-', '+', most, consumer) or {}) do
    redis.call('XCLAIM', row.stream, stage, consumer, 0, pending[1], 'IDLE', claim, 'JUSTID')
    count = count + 1
  end
end
return count
