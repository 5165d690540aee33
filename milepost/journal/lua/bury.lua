-- bury(stage, deliveries[stream, entry, channel, event, id, attempts, crashes, reason, status])
-- Makes dead letters (see settle in common.lua). Returns for each 'buried', 'stale' or 'error …'.
write_when_full()

return settle(stage, deliveries, function(row)
  bury(stage, row)
  return 'buried'
end)
