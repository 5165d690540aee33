-- adopt(dedup, messages[token, channel, source_id, id, event, data])
-- Journals messages that other programs published. Any bridge adopts a CloudEvent, once; only the leader adopts a plain
-- message, under its token. Nothing is published: subscribers of the channel have the message. Returns for each 'done',
-- 'seen', 'not leading' or 'error …'.
local token = leader()
local answers, channels = {}, {}
for _, message in ipairs(messages) do
  local answer = 'not leading'
  if message.token == '' or message.token == token then answer = attempt(journal_once, message, false, dedup) end
  if answer == 'done' then channels[message.channel] = true end
  answers[#answers + 1] = answer
end
for channel in pairs(channels) do bound_unconsumed(channel) end
return answers
