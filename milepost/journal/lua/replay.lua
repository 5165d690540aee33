-- replay: puts dead letters back into their journals, for the route they died on, counts and deadline afresh.
local journals, dead = key(), key()
local stage, journal_of, progress_of = arg(), arg(), arg()
local replayed = 0
defy_full(journals)
while more() do
  local id = arg()
  local entry = redis.call('XRANGE', dead, id, id)[1]
  if entry then
    local letter = {}
    for i = 1, #entry[2], 2 do letter[entry[2][i]] = entry[2][i + 1] end
    local route = letter['for'] ~= '' and letter['for'] or stage
    add(journals, journal_of .. letter.channel, letter.channel, letter.event, { 'for', route })
    redis.call('HDEL', progress_of .. letter.id, 'dead:' .. stage)
    redis.call('XDEL', dead, id)
    replayed = replayed + 1
  end
end
return replayed
