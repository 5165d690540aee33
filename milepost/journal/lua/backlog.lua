-- backlog: how many events are journaled, parked or dead.
return backlog(key(), key(), key(), arg(), arg(), arg())
