-- beat(fresh, broker, routes[stage, wiring])
-- Writes this bridge's routes into the stages table, with the time, and announces on the table's channel which channels
-- are consumed by a stage that some bridge serves. `wiring` is a JSON object. A bridge that was frozen while the other
-- delivery mode took its place (see switch) writes nothing: a trim would make its groups anew. Answers 1, or 0 then.
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
