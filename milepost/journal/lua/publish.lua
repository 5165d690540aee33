-- publish: journals each event that was not seen before and tells its channel. With a limit, nothing is written
-- while the backlog is over it.
local stages, journals, graves = key(), key(), key()
local limit = tonumber(arg())
local journal_of, waiting_of, dead_of = arg(), arg(), arg()
local context = { journals = journals, wiring = wiring(stages), dedup = arg(), ttl = tonumber(arg()) }
if limit > 0 and backlog(journals, stages, graves, journal_of, waiting_of, dead_of) >= limit then return 'full' end
local answers = {}
while more() do
  answers[#answers + 1] = attempt(carry_once, context, read_event(), true)
end
return answers
