-- beat(fresh, broker, routes[stage, wiring])
-- Writes this bridge's routes into the stages table, with the time (the beat). Then publishes, on the channel of the
-- stages table, the channels that served stages consume. `wiring` is a JSON object. Returns 1.
-- Returns 0 and writes nothing if the other delivery mode has taken over from this bridge (see switch), which may have
-- been frozen meanwhile. Its routes in the table would make trim create its groups again.
local known, bridge_alive = read_stages(fresh)
for _, route in ipairs(routes) do
  for name, stage in pairs(known) do
    if bridge_alive and stage.served and not known[route.stage] and (name == broker) ~= (route.stage == broker) then
      return 0
    end
  end
end
write_when_full()
for _, route in ipairs(routes) do
  redis.call('HSET', STAGES, route.stage, string.sub(route.wiring, 1, -2) .. ',"beat":' .. whole(now()) .. '}')
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
