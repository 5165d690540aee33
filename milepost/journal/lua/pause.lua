-- pause(stage)
-- Lets no bridge deliver to a stage any more. A full Redis takes it. Returns 1, or 0 if the stage was paused already.
write_when_full()
return redis.call('SADD', PAUSED, stage)
