-- ensure(stage, broker, channels[channel])
-- Makes the missing groups of a stage: on the journals of its channels, from their beginning, and on its streams of
-- retries. Returns how many it made on journals. Makes none if the other delivery mode has taken over from this bridge
-- (see switch), which may have been frozen meanwhile.
if is_replaced(read_stages(), stage, broker) then return 0 end
write_when_full()
local made = 0
for _, row in ipairs(channels) do
  if make_group(journal_key(row.channel), stage, '0') then made = made + 1 end
  make_group(retries_key(stage, row.channel), stage, '0')
  redis.call('SADD', JOURNALS, row.channel)
end
return made
