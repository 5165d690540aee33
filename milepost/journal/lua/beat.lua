-- beat: writes this bridge's routes into the stages table, with the time.
local journals, stages = key(), key()
defy_full(journals)
while more() do
  local name, wired = arg(), arg()
  redis.call('HSET', stages, name, string.sub(wired, 1, -2) .. ',"beat":' .. whole(now()) .. '}')
end
return 1
