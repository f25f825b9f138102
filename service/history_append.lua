-- Adds events to one user's value, and those that are new to the event log and to the counters of
-- their hours: all or nothing.
--
-- KEYS[1]  the user's value            KEYS[2]  a stream of the event log
-- KEYS[3]  and on: counters of some hours, by item hash (popularity_counters.py)
-- ARGV[1]  events kept a side          ARGV[2]  expiry of the value in seconds
-- ARGV[3]  entries kept in the stream  ARGV[4]  expiry of the counters in seconds
-- then five for each event:
--          side (1 videos, 2 comments), record, raw id with its length before it, log entry,
--          which of KEYS counts it (0 none)
-- Returns one number for each event: 1 accepted, 0 known already.
--
-- The value's layout is told in history_value.py. Each side is ordered by (time, event hash), so the
-- result does not depend on the order in which events arrive.

local MAGIC, HEADER_BYTES, RECORD_BYTES = 'LSV\1', 16, 24

-- Time, then the event hash as two halves: a double cannot hold its 64 bits.
local function order_of(records, index)
  local at = index * RECORD_BYTES
  local low, high = struct.unpack('<I4I4', records, at + 1)
  local time = struct.unpack('<I6', records, at + 17)
  return time, high, low
end

local function holds_event(records, event_hash)
  local at = string.find(records, event_hash, 1, true)
  while at do
    if (at - 1) % RECORD_BYTES == 0 then return true end
    at = string.find(records, event_hash, at + 1, true)
  end
  return false
end

-- How many records stand before the new one; looked for from the end, where events usually belong.
local function place_of(records, new_record)
  local time, high, low = order_of(new_record, 0)
  local index = #records / RECORD_BYTES
  while index > 0 do
    local other_time, other_high, other_low = order_of(records, index - 1)
    if other_time < time then break end
    if other_time == time then
      if other_high < high or (other_high == high and other_low < low) then break end
    end
    index = index - 1
  end
  return index
end

-- Bytes that the first `count` ids take.
local function id_bytes(ids, count)
  local at = 0
  for _ = 1, count do at = at + 2 + struct.unpack('<I2', ids, at + 1) end
  return at
end

local function item_at(records, index)
  return records:sub(index * RECORD_BYTES + 9, index * RECORD_BYTES + 16)
end

-- Returns whether the event before or after is on the same item: then it is no further choice.
local function insert(side, record, id)
  local index = place_of(side.records, record)
  local item = item_at(record, 0)
  local is_repeat = (index > 0 and item_at(side.records, index - 1) == item)
    or item_at(side.records, index) == item
  local last = #side.records / RECORD_BYTES
  local at, id_at = index * RECORD_BYTES, #side.ids
  if index < last then id_at = id_bytes(side.ids, index) end
  side.records = side.records:sub(1, at) .. record .. side.records:sub(at + 1)
  side.ids = side.ids:sub(1, id_at) .. id .. side.ids:sub(id_at + 1)
  return is_repeat
end

local function trim(side, max_events)
  local excess = #side.records / RECORD_BYTES - max_events
  if excess > 0 then
    side.ids = side.ids:sub(id_bytes(side.ids, excess) + 1)
    side.records = side.records:sub(excess * RECORD_BYTES + 1)
  end
end

local function read_sides(value)
  local sides = { { records = '', ids = '' }, { records = '', ids = '' } }
  if not value then return sides end
  local magic, count_1, count_2, bytes_1, bytes_2 = struct.unpack('<c4I2I2I4I4', value)
  if magic ~= MAGIC then error('history value of an unknown format') end
  local at = HEADER_BYTES
  local function take(bytes)
    at = at + bytes
    return value:sub(at - bytes + 1, at)
  end
  sides[1].records = take(count_1 * RECORD_BYTES)
  sides[2].records = take(count_2 * RECORD_BYTES)
  sides[1].ids = take(bytes_1)
  sides[2].ids = take(bytes_2)
  return sides
end

local max_events, expiry_s, log_entries = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local counters_expiry_s = ARGV[4]
local sides = read_sides(redis.call('GET', KEYS[1]))
local flags, is_changed, counted = {}, false, {}
for at = 5, #ARGV, 5 do
  local side, record = sides[tonumber(ARGV[at])], ARGV[at + 1]
  if holds_event(side.records, record:sub(1, 8)) then
    flags[#flags + 1] = 0
  else
    local is_repeat = insert(side, record, ARGV[at + 2])
    local counters = KEYS[tonumber(ARGV[at + 4])]
    if counters and not is_repeat then
      redis.call('HINCRBY', counters, item_at(record, 0), 1)
      counted[counters] = true
    end
    trim(side, max_events)
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', log_entries, '*', 'event', ARGV[at + 3])
    flags[#flags + 1] = 1
    is_changed = true
  end
end
for counters in pairs(counted) do redis.call('EXPIRE', counters, counters_expiry_s) end
if is_changed then
  local videos, comments = sides[1], sides[2]
  local header = struct.pack('<c4I2I2I4I4', MAGIC, #videos.records / RECORD_BYTES,
    #comments.records / RECORD_BYTES, #videos.ids, #comments.ids)
  local value = header .. videos.records .. comments.records .. videos.ids .. comments.ids
  redis.call('SET', KEYS[1], value, 'EX', expiry_s)
end
return flags
