-- forget_journal(channel)
-- Deletes a journal that no stage consumes. Returns how many events it had, or -1 if a stage consumes it.
local journal = journal_key(channel)
if consumed_channels(read_stages())[channel] or next(groups_of(journal)) then return -1 end
local length = count('XLEN', journal)
redis.call('DEL', journal)
redis.call('SREM', JOURNALS, channel)
return length
