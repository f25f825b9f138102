-- Adds events to the values of some users of one shard, and those that are new to the event log and
-- to the counters of their hours: all or nothing.
--
-- KEYS[1]  the shard's stream of the event log
-- KEYS[2]  and on: users' values, and counters of some hours, by item hash (popularity_counters.py)
-- ARGV[1]  events kept a side          ARGV[2]  expiry of a value in seconds
-- ARGV[3]  entries kept in the stream  ARGV[4]  expiry of the counters in seconds
-- ARGV[5]  the events, one after the other, little-endian:
--          which of KEYS is the user's value (2 bytes), side (1: 1 videos, 2 comments), which of KEYS
--          counts it (2: 0 none), record (24), bytes of the next two (2, 4): the item's id with its
--          length before it, and the log entry
-- Returns one number for each event: 1 accepted, 0 known already.
--
-- A value's layout is told in history_value.py. Each side is ordered by (time, event hash), so the
-- result does not depend on the order in which events arrive. One argument for all events, as it is
-- arguments and commands that cost the client time. All is read before anything is written: a value
-- that can't be read leaves everything as it was.
--
-- A side is a part of the value as it was read: Lua hashes every string that it makes, which took
-- longer than all else while records were cut out and put together again for each step.

local MAGIC, HEADER_BYTES, RECORD_BYTES = 'LSV\1', 16, 24

-- Records from byte `at` of `text` on, ids from `id_at` of `id_text` on; offsets count from 0. A new
-- last event stays beside them, in `new_record` and `new_id`, until the value is written.
local function side_of(text, at, bytes, id_text, id_at, id_bytes)
  return { text = text, at = at, bytes = bytes, id_text = id_text, id_at = id_at,
    id_bytes = id_bytes, new_record = '', new_id = '' }
end

local function read_sides(value)
  if not value then return { side_of('', 0, 0, '', 0, 0), side_of('', 0, 0, '', 0, 0) } end
  local magic, count_1, count_2, id_bytes_1, id_bytes_2 = struct.unpack('<c4I2I2I4I4', value)
  if magic ~= MAGIC then error('history value of an unknown format') end
  local bytes_1, bytes_2 = count_1 * RECORD_BYTES, count_2 * RECORD_BYTES
  local id_at = HEADER_BYTES + bytes_1 + bytes_2
  return {
    side_of(value, HEADER_BYTES, bytes_1, value, id_at, id_bytes_1),
    side_of(value, HEADER_BYTES + bytes_1, bytes_2, value, id_at + id_bytes_1, id_bytes_2),
  }
end

local function records_of(side, from, to) return side.text:sub(side.at + from + 1, side.at + to) end
local function ids_of(side, from, to) return side.id_text:sub(side.id_at + from + 1, side.id_at + to) end
local function item_of(record) return record:sub(9, 16) end

-- Puts the new last event to the others, before another one comes.
local function settle(side)
  if side.new_record ~= '' then
    side.text = records_of(side, 0, side.bytes) .. side.new_record
    side.id_text = ids_of(side, 0, side.id_bytes) .. side.new_id
    side.at, side.bytes, side.new_record = 0, #side.text, ''
    side.id_at, side.id_bytes, side.new_id = 0, #side.id_text, ''
  end
end

local function holds_event(side, event_hash)
  local at = string.find(side.text, event_hash, side.at + 1, true)
  while at and at <= side.at + side.bytes do
    if (at - 1 - side.at) % RECORD_BYTES == 0 then return true end
    at = string.find(side.text, event_hash, at + 1, true)
  end
  return false
end

-- Time, then the event hash as two halves: a double cannot hold its 64 bits.
local function order_of(text, at)
  local low, high = struct.unpack('<I4I4', text, at + 1)
  return struct.unpack('<I6', text, at + 17), high, low
end

-- How many bytes of records stand before a new one; looked for from the end, where events usually
-- belong.
local function place_of(side, new_record)
  local time, high, low = order_of(new_record, 0)
  local place = side.bytes
  while place > 0 do
    local other_time, other_high, other_low = order_of(side.text, side.at + place - RECORD_BYTES)
    if other_time < time then break end
    if other_time == time then
      if other_high < high or (other_high == high and other_low < low) then break end
    end
    place = place - RECORD_BYTES
  end
  return place
end

-- Bytes that the ids of the first records take.
local function id_bytes_before(side, place)
  local at = 0
  for _ = 1, place / RECORD_BYTES do
    at = at + 2 + struct.unpack('<I2', side.id_text, side.id_at + at + 1)
  end
  return at
end

-- Returns whether the event before or after is on the same item: then it is no further choice.
local function insert(side, record, id)
  local place, item = place_of(side, record), item_of(record)
  local is_repeat = place > 0 and item_of(records_of(side, place - RECORD_BYTES, place)) == item
  if place == side.bytes then
    side.new_record, side.new_id = record, id
    return is_repeat
  end
  is_repeat = is_repeat or item_of(records_of(side, place, place + RECORD_BYTES)) == item
  local id_place = id_bytes_before(side, place)
  side.text = records_of(side, 0, place) .. record .. records_of(side, place, side.bytes)
  side.id_text = ids_of(side, 0, id_place) .. id .. ids_of(side, id_place, side.id_bytes)
  side.at, side.bytes, side.id_at, side.id_bytes = 0, #side.text, 0, #side.id_text
  return is_repeat
end

local function trim(side, max_events)
  local excess = side.bytes + #side.new_record - max_events * RECORD_BYTES
  if excess > 0 then
    local id_excess = id_bytes_before(side, excess)
    side.at, side.bytes = side.at + excess, side.bytes - excess
    side.id_at, side.id_bytes = side.id_at + id_excess, side.id_bytes - id_excess
  end
end

local function write_sides(key, sides, expiry_s)
  local videos, comments = sides[1], sides[2]
  local header = struct.pack('<c4I2I2I4I4', MAGIC,
    (videos.bytes + #videos.new_record) / RECORD_BYTES,
    (comments.bytes + #comments.new_record) / RECORD_BYTES,
    videos.id_bytes + #videos.new_id, comments.id_bytes + #comments.new_id)
  local value = header
    .. records_of(videos, 0, videos.bytes) .. videos.new_record
    .. records_of(comments, 0, comments.bytes) .. comments.new_record
    .. ids_of(videos, 0, videos.id_bytes) .. videos.new_id
    .. ids_of(comments, 0, comments.id_bytes) .. comments.new_id
  redis.call('SET', key, value, 'EX', expiry_s)
end

local max_events, expiry_s, log_entries = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local counters_expiry_s = ARGV[4]
local events = ARGV[5]
local values, flags, entries, changed, counted = {}, {}, {}, {}, {}
local next_at = 1
while next_at <= #events do
  local number, side_number, counters, record, id_size, entry_size, at =
    struct.unpack('<I2I1I2c24I2I4', events, next_at)
  next_at = at + id_size + entry_size
  values[number] = values[number] or read_sides(redis.call('GET', KEYS[number]))
  local side = values[number][side_number]
  settle(side)
  if holds_event(side, record:sub(1, 8)) then
    flags[#flags + 1] = 0
  else
    local is_repeat = insert(side, record, events:sub(at, at + id_size - 1))
    trim(side, max_events)
    if counters > 0 and not is_repeat then
      local counts, item = counted[counters] or {}, item_of(record)
      counts[item] = (counts[item] or 0) + 1
      counted[counters] = counts
    end
    entries[#entries + 1] = events:sub(at + id_size, next_at - 1)
    changed[number] = true
    flags[#flags + 1] = 1
  end
end

for number in pairs(changed) do write_sides(KEYS[number], values[number], expiry_s) end
for _, entry in ipairs(entries) do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', log_entries, '*', 'event', entry)
end
for number, counts in pairs(counted) do
  for item, count in pairs(counts) do redis.call('HINCRBY', KEYS[number], item, count) end
  redis.call('EXPIRE', KEYS[number], counters_expiry_s)
end
return flags
