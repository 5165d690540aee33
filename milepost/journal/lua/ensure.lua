-- ensure(stage, broker, channel)
-- Makes the missing groups of a stage: on the journal of its channel, from its beginning, and on its stream of retries.
-- Returns whether it made the one on the journal. Makes none if the other delivery mode has taken over from this bridge
-- (see switch), which may have been frozen meanwhile.
if is_replaced(read_stages(), stage, broker) then return false end
write_when_full()
local made = make_group(journal_key(channel), stage, '0')
make_group(retries_key(stage, channel), stage, '0')
redis.call('SADD', JOURNALS, channel)
return made
