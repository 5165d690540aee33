-- left_behind()
-- Lists the groups that nobody reads, because their stage consumes other channels now or is not in the stages table.
-- Returns for each { stage, channel, journaled and not finished, milliseconds since the oldest was journaled or -1 }.
local stages, found = read_stages(), {}
for _, channel in ipairs(redis.call('SMEMBERS', JOURNALS)) do
  for name in pairs(groups_of(journal_key(channel))) do
    if not consumes(stages[name], channel) then
      local events, oldest = waiting_on(name, channel)
      found[#found + 1] = { name, channel, events, age(oldest) }
    end
  end
end
return found
