-- beat(fresh, broker, routes[stage, consumes, wiring, behind])
-- Writes this bridge's routes into the stages table, with the time (the beat). Then publishes, on the channel of the
-- stages table, the channels that served stages consume. `consumes` is a JSON list, `wiring` an object with the other
-- fields of the route's row. For the Broker's route `behind` is an object with `consumes`, a list, and `emits`, a text, of
-- each stage that gets its events through the Broker. Returns 1.
-- Returns 0 and writes nothing if the other delivery mode has taken over from this bridge (see switch), which may have
-- been frozen meanwhile, even if that mode has ended since. The bridge must switch first: its routes in the table would
-- make trim create its groups again, with events that the other mode has.
local known = read_stages(fresh)
for _, route in ipairs(routes) do
  if is_replaced(known, route.stage, broker) then return 0 end
end
write_when_full()
if not unless_gone('HGETALL', STAGES) then redis.call('DEL', STAGES) end  -- a key of another type

-- Several bridges may serve the Broker with different stages. So each adds its own to those of the last day, to all of
-- which a switch gives their place, and consumes for those that another bridge serves now.
local function join_broker(route)
  local stages = known[broker] and known[broker].behind or {}
  for name, stage in pairs(stages) do
    if stage.beat < now() - 24 * HOUR then stages[name] = nil end
  end
  for name, stage in pairs(cjson.decode(route.behind)) do
    stage.beat = now()
    stages[name] = stage
  end
  local channels, consumed = {}, {}
  for _, stage in pairs(stages) do
    for _, channel in ipairs(stage.beat > now() - fresh and stage.consumes or {}) do channels[channel] = true end
  end
  for channel in pairs(channels) do consumed[#consumed + 1] = channel end
  return cjson.encode(consumed), ',"behind":' .. cjson.encode(stages)
end

for _, route in ipairs(routes) do
  local consumed, behind = route.consumes, ''
  if route.behind ~= '' then consumed, behind = join_broker(route) end
  redis.call('HSET', STAGES, route.stage, '{"consumes":' .. consumed .. ',' .. string.sub(route.wiring, 2, -2) .. behind
    .. ',"beat":' .. whole(now()) .. '}')
end
redis.call('DEL', TAG .. 'announced')  -- version 0.1 kept it
local served = {}
local stages, bridge_alive = read_stages(fresh)
for name, stage in pairs(stages) do
  if bridge_alive and stage.served then served[name] = stage end
end
local consumed = {}
for channel in pairs(consumed_channels(served)) do consumed[#consumed + 1] = channel end
redis.call('PUBLISH', STAGES, #consumed > 0 and cjson.encode(consumed) or '[]')
return 1
