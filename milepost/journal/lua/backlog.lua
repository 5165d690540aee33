-- backlog(fresh)
-- Returns how many events are journaled, parked or dead.
return (count_backlog(fresh, math.huge))
