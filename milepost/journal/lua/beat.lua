-- beat: writes this bridge's routes into the stages table, with the time, and tells the table's channel which channels
-- are consumed by a stage that some bridge serves: bridges hear all of them.
local journals, stages, announced = key(), key(), key()
local fresh = tonumber(arg())
defy_full(journals)
while more() do
  local name, wired = arg(), arg()
  redis.call('HSET', stages, name, string.sub(wired, 1, -2) .. ',"beat":' .. whole(now()) .. '}')
end
keep_announced(stages, announced)
local consumed = {}
for channel in pairs(wiring(stages, fresh).consumed) do consumed[#consumed + 1] = channel end
redis.call('PUBLISH', stages, #consumed > 0 and cjson.encode(consumed) or '[]')
return 1
