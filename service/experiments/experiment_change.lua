-- Changes one definition, if nobody changed any since it was read: all or nothing.
--
-- KEYS[1]  revision of all definitions   KEYS[2]  records by name   KEYS[3]  the audit log
-- ARGV[1]  the revision that was read    ARGV[2]  name              ARGV[3]  record; empty deletes
-- ARGV[4]  audit entry                   ARGV[5]  entries kept in the audit log
-- Returns the new revision, or -1 if another change came first.

local revision = tonumber(redis.call('GET', KEYS[1]) or '0')
if revision ~= tonumber(ARGV[1]) then return -1 end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[2], ARGV[2])
else
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
end
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[5], '*', 'entry', ARGV[4])
return redis.call('INCR', KEYS[1])
