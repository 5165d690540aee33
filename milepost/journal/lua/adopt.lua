-- adopt(dedup, messages[token, channel, source_id, id, event, data])
-- Journals messages that foreign programs published. A CloudEvent is adopted by any bridge, once; a plain message only
-- under the token of the leading bridge. Nothing is announced: the channel has heard it already. Answers for each
-- 'done', 'seen', 'not leading' or 'error …'.
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
