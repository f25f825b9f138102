-- Takes tokens out of a caller's bucket, which all processes share, for one of them to spend.
--
-- KEYS[1]  the bucket: tokens and the time they were counted at
-- ARGV[1]  tokens a second   ARGV[2]  most the bucket holds   ARGV[3]  how many are wanted
-- Returns how many were taken.

local rate, most, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(bucket[1]) or most, tonumber(bucket[2]) or now
tokens = math.min(most, tokens + math.max(0, now - at) * rate)  -- a clock may step back
local taken = math.min(wanted, math.floor(tokens))
redis.call('HSET', KEYS[1], 'tokens', tokens - taken, 'at', now)
redis.call('PEXPIRE', KEYS[1], math.ceil(most / rate * 1000) + 1000)
return taken
