-- adopt: journals what foreign programs published. An event that names itself is adopted by any bridge, once; a
-- plain message only under the token of the leading bridge. A channel is never told again what it has heard.
local announced, journals, lease = key(), key(), key()
local context = { journals = journals, announced = announced, dedup = arg(), ttl = tonumber(arg()) }
local leading = redis.call('GET', lease)
local answers = {}
while more() do
  local token = arg()
  local event = read_event()
  if token ~= '' and token ~= leading then
    answers[#answers + 1] = 'not leading'
  else
    answers[#answers + 1] = attempt(carry_once, context, event, false)
  end
end
return answers
