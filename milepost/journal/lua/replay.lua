-- replay: puts dead letters back into their journals, for the route they died on, counts and deadline afresh. Answers
-- how many; or, when one of them is for a route that no bridge serves on its channel, that route and channel, and then
-- nothing is replayed: every other group would acknowledge it unseen.
local stages, journals, dead = key(), key(), key()
local stage, fresh, journal_of, progress_of = arg(), tonumber(arg()), arg(), arg()

local function served(route, channel)
  local text = redis.call('HGET', stages, route)
  local wired = text and cjson.decode(text)
  if not wired or now() - wired.beat >= fresh then return false end
  for _, consumed in ipairs(wired.consumes) do
    if consumed == channel then return not redis.pcall('XPENDING', journal_of .. channel, route).err end
  end
  return false
end

local letters = {}
while more() do
  local entry = arg()
  local row = redis.call('XRANGE', dead, entry, entry)[1]
  if row and not letters[entry] then
    local letter = { entry = entry }
    for i = 1, #row[2], 2 do letter[row[2][i]] = row[2][i + 1] end
    letter.route = letter['for'] ~= '' and letter['for'] or stage
    if not served(letter.route, letter.channel) then return { letter.route, letter.channel } end
    letters[entry] = true
    letters[#letters + 1] = letter
  end
end
defy_full(journals)
for _, letter in ipairs(letters) do
  add(journals, journal_of .. letter.channel, letter.channel, letter.event, { 'for', letter.route })
  redis.call('HDEL', progress_of .. letter.id, 'dead:' .. stage)
  redis.call('XDEL', dead, letter.entry)
end
return #letters
