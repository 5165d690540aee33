-- ensure(stage, channels[channel])
-- Makes the missing groups of a stage: on the journals of its channels, from their beginning, and on its streams of
-- retries. Returns how many it made on journals.
write_when_full()
local made = 0
for _, row in ipairs(channels) do
  if make_group(journal_key(row.channel), stage, '0') then made = made + 1 end
  make_group(retries_key(stage, row.channel), stage, '0')
  redis.call('SADD', JOURNALS, row.channel)
end
return made
