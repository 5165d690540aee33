-- bury(stage, deliveries[stream, entry, channel, event, id, attempts, crashes, reason, status])
-- Makes dead letters of events that no retry can help (see settle). Answers for each 'buried', 'stale' or 'error …'.
write_when_full()

return settle(stage, deliveries, function(row)
  bury(stage, row)
  return 'buried'
end)
