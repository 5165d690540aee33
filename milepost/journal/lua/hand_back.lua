-- hand_back(stage, consumer, claim, most, streams[stream])
-- At a clean stop: marks everything this consumer has pending as unrenewed for the claim time, so that another takes it
-- over at once. That includes what a read brought whose answer was lost. Answers how many.
local count = 0
for _, row in ipairs(streams) do
  for _, pending in ipairs(unless_gone('XPENDING', row.stream, stage, '-', '+', most, consumer) or {}) do
    redis.call('XCLAIM', row.stream, stage, consumer, 0, pending[1], 'IDLE', claim, 'JUSTID')
    count = count + 1
  end
end
return count
