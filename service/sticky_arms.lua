-- Remembers the arm that a unit has in an experiment, unless it has one already.
--
-- KEYS[1]  the unit's arms, a JSON object by experiment
-- ARGV[1]  experiment   ARGV[2]  arm   ARGV[3]  expiry in seconds

local raw = redis.call('GET', KEYS[1])
local arms = raw and cjson.decode(raw) or {}
if not arms[ARGV[1]] then
  arms[ARGV[1]] = ARGV[2]
  redis.call('SET', KEYS[1], cjson.encode(arms), 'EX', ARGV[3])
end
