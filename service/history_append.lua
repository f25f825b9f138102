-- Adds events to the values of some users, and those that are new to the event log and to the counters
-- of their hours: all or nothing.
--
-- KEYS     streams of the event log; users' values; counters of some hours, by item hash
--          (popularity_counters.py)
-- ARGV[1]  events kept a side          ARGV[2]  expiry of a value in seconds
-- ARGV[3]  entries kept in the stream  ARGV[4]  expiry of the counters in seconds
-- ARGV[5]  the events, one after the other, little-endian:
--          which of KEYS is the stream (2 bytes), and which the user's value (2), side (1: 1 videos,
--          2 comments), which of KEYS counts it (2: 0 none), bytes of the next two (2, 4): the slot,
--          and the log entry
-- Returns one number for each event: 1 accepted, 0 known already.
--
-- A value's layout is told in history_value.py. Each side is ordered by (time, event hash), so the
-- result does not depend on the order in which events arrive. One argument for all events, as it is
-- arguments and commands that cost the client time. All is read before anything is written: a value
-- that can't be read leaves everything as it was.
--
-- An event that is the last of its side is written into the next empty slot, and nothing else is:
-- what a value's other bytes cost, here, in the append-only file and on replicas, is the same
-- whatever they are. docs/decisions/0046.

local MAGIC, HEADER_BYTES, RECORD_BYTES, UNITS_AT = 'LSV\2', 12, 24, 24
local MAGIC_1, HEADER_BYTES_1 = 'LSV\1', 16

-- The first `used` of a region's slots, from byte `region_at` of `text` on, offsets counting from 0.
-- `count` of them, from `at` on, are kept; `added` come after those.
local function side_of(text, region_at, slots, used, slot_bytes, max_events)
  local count = math.min(used, max_events)
  return { text = text, region_at = region_at, slots = slots, used = used,
    at = region_at + (used - count) * slot_bytes, count = count, added = {} }
end

-- By bisection among those that were empty when all was written last.
local function used_slots(text, at, slots, slot_bytes)
  local low, high = math.floor(slots * 8 / 9), slots
  while low < high do
    local middle = math.floor((low + high) / 2)
    if text:byte(at + middle * slot_bytes + UNITS_AT) == 0 then high = middle else low = middle + 1 end
  end
  return low
end

local function padded(text, bytes)
  return #text == bytes and text or text .. ('\0'):rep(bytes - #text)
end

-- The layout of version 1: records of videos, of comments, ids of videos, of comments.
local function read_version_1(value)
  local _, videos, comments = struct.unpack('<c4I2I2', value)
  local record_at, id_at = HEADER_BYTES_1, HEADER_BYTES_1 + (videos + comments) * RECORD_BYTES
  local sides, slot_bytes = { {}, {} }, RECORD_BYTES
  for number = 1, videos + comments do
    local record = value:sub(record_at + 1, record_at + RECORD_BYTES - 1)
    local id_bytes = struct.unpack('<I2', value, id_at + 1)
    local units = math.ceil(id_bytes / 4)
    local id = value:sub(id_at + 3, id_at + 2 + id_bytes)
    local slot = padded(record .. string.char(units) .. id, RECORD_BYTES + 4 * units)
    table.insert(sides[number <= videos and 1 or 2], slot)
    slot_bytes = math.max(slot_bytes, #slot)
    record_at, id_at = record_at + RECORD_BYTES, id_at + 2 + id_bytes
  end
  return sides, slot_bytes
end

local function read_value(key, max_events)
  local value = redis.call('GET', key)
  if not value then
    return { slot_bytes = RECORD_BYTES, is_rewritten = true,
      side_of('', 0, 0, 0, 0, max_events), side_of('', 0, 0, 0, 0, max_events) }
  end
  if value:sub(1, 4) == MAGIC_1 then
    local sides, slot_bytes = read_version_1(value)
    for number, slots in ipairs(sides) do
      for place, slot in ipairs(slots) do slots[place] = padded(slot, slot_bytes) end
      sides[number] = side_of(table.concat(slots), 0, #slots, #slots, slot_bytes, max_events)
    end
    return { slot_bytes = slot_bytes, is_rewritten = true, sides[1], sides[2] }
  end
  local magic, slot_bytes, videos, comments = struct.unpack('<c4I2I2I2', value)
  if magic ~= MAGIC or #value ~= HEADER_BYTES + (videos + comments) * slot_bytes then
    error('history value of an unknown format')
  end
  local videos_at, comments_at = HEADER_BYTES, HEADER_BYTES + videos * slot_bytes
  local used_videos = used_slots(value, videos_at, videos, slot_bytes)
  local used_comments = used_slots(value, comments_at, comments, slot_bytes)
  return { slot_bytes = slot_bytes, is_rewritten = false,
    side_of(value, videos_at, videos, used_videos, slot_bytes, max_events),
    side_of(value, comments_at, comments, used_comments, slot_bytes, max_events) }
end

local function kept_of(side, slot_bytes)
  return side.text:sub(side.at + 1, side.at + side.count * slot_bytes)
end

-- Puts what was added to the other slots, so that all of the value is written again.
local function settle(value, side)
  side.text = kept_of(side, value.slot_bytes) .. table.concat(side.added)
  side.at, side.count, side.added = 0, side.count + #side.added, {}
  value.is_rewritten = true
end

local function resize_slots(value, slot_bytes)
  for _, side in ipairs(value) do
    settle(value, side)
    local slots = {}
    for at = 1, #side.text, value.slot_bytes do
      local bytes = RECORD_BYTES + 4 * side.text:byte(at + UNITS_AT - 1)
      slots[#slots + 1] = padded(side.text:sub(at, at + bytes - 1), slot_bytes)
    end
    side.text = table.concat(slots)
  end
  value.slot_bytes = slot_bytes
end

local function holds_event(value, side, event_hash)
  local kept_bytes = side.count * value.slot_bytes
  local at = string.find(side.text, event_hash, side.at + 1, true)
  while at and at <= side.at + kept_bytes do
    if (at - 1 - side.at) % value.slot_bytes == 0 then return true end
    at = string.find(side.text, event_hash, at + 1, true)
  end
  for _, slot in ipairs(side.added) do
    if slot:sub(1, 8) == event_hash then return true end
  end
  return false
end

-- Time, then the event hash as two halves: a double cannot hold its 64 bits.
local function order_of(text, at)
  local low, high, time = struct.unpack('<I4I4xxxxxxxxI6', text, at + 1)
  return time, high, low
end

local function is_before(text, at, time, high, low)
  local other_time, other_high, other_low = order_of(text, at)
  if other_time ~= time then return other_time < time end
  if other_high ~= high then return other_high < high end
  return other_low < low
end

local function item_at(text, at) return text:sub(at + 9, at + 16) end

-- Returns whether the event before or after is on the same item: then it is no further choice.
local function insert(value, side, slot)
  local time, high, low = order_of(slot, 0)
  local last, last_at = side.added[#side.added], 0
  if not last then
    last, last_at = side.text, side.at + (side.count - 1) * value.slot_bytes
  end
  local is_first = #side.added + side.count == 0
  if is_first or is_before(last, last_at, time, high, low) then
    side.added[#side.added + 1] = slot
    return not is_first and item_at(last, last_at) == item_at(slot, 0)
  end
  settle(value, side)
  local place = (side.count - 1) * value.slot_bytes  -- it isn't behind the last one
  while place > 0 and not is_before(side.text, place - value.slot_bytes, time, high, low) do
    place = place - value.slot_bytes
  end
  local item = item_at(slot, 0)
  local is_repeat = item_at(side.text, place) == item
    or (place > 0 and item_at(side.text, place - value.slot_bytes) == item)
  side.text = side.text:sub(1, place) .. slot .. side.text:sub(place + 1)
  side.count = side.count + 1
  return is_repeat
end

local function trim(value, side, max_events)
  local excess = side.count + #side.added - max_events
  if excess > side.count then settle(value, side) end
  if excess > 0 then
    side.at, side.count = side.at + excess * value.slot_bytes, side.count - excess
  end
end

-- As narrow as the ids allow, with an empty slot for every eighth one of a side, and one more.
local function rewrite_value(key, value, expiry_s)
  local units = 0
  for _, side in ipairs(value) do
    settle(value, side)
    side.text = kept_of(side, value.slot_bytes)
    for at = UNITS_AT, #side.text, value.slot_bytes do
      units = math.max(units, side.text:byte(at))
    end
    side.at = 0
  end
  local slot_bytes = RECORD_BYTES + 4 * units
  if slot_bytes ~= value.slot_bytes then resize_slots(value, slot_bytes) end
  local parts, slots = { '' }, {}
  for number, side in ipairs(value) do
    slots[number] = side.count > 0 and side.count + math.floor(side.count / 8) + 1 or 0
    parts[#parts + 1] = padded(side.text, slots[number] * slot_bytes)
  end
  parts[1] = struct.pack('<c4I2I2I2I2', MAGIC, slot_bytes, slots[1], slots[2], 0)
  redis.call('SET', key, table.concat(parts), 'EX', expiry_s)
end

local function write_value(key, value, expiry_s)
  for _, side in ipairs(value) do
    if side.used + #side.added > side.slots then value.is_rewritten = true end
  end
  if value.is_rewritten then return rewrite_value(key, value, expiry_s) end
  for _, side in ipairs(value) do
    if #side.added > 0 then
      local at = side.region_at + side.used * value.slot_bytes
      redis.call('SETRANGE', key, at, table.concat(side.added))
    end
  end
  redis.call('EXPIRE', key, expiry_s)
end

local max_events, expiry_s, log_entries = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local counters_expiry_s = ARGV[4]
local events = ARGV[5]
local values, flags, logged, changed, counted = {}, {}, {}, {}, {}
local next_at = 1
while next_at <= #events do
  local stream, number, side_number, counters, slot_size, entry_size, at =
    struct.unpack('<I2I2I1I2I2I4', events, next_at)
  next_at = at + slot_size + entry_size
  local value = values[number]
  if not value then
    value = read_value(KEYS[number], max_events)
    values[number] = value
  end
  local side = value[side_number]
  local slot = events:sub(at, at + slot_size - 1)
  if holds_event(value, side, slot:sub(1, 8)) then
    flags[#flags + 1] = 0
  else
    if slot_size > value.slot_bytes then resize_slots(value, slot_size) end
    local is_repeat = insert(value, side, padded(slot, value.slot_bytes))
    trim(value, side, max_events)
    if counters > 0 and not is_repeat then
      local counts, item = counted[counters] or {}, item_at(slot, 0)
      counts[item] = (counts[item] or 0) + 1
      counted[counters] = counts
    end
    local entries = logged[stream] or {}
    entries[#entries + 1] = events:sub(at + slot_size, next_at - 1)
    logged[stream] = entries
    changed[number] = true
    flags[#flags + 1] = 1
  end
end

for number in pairs(changed) do write_value(KEYS[number], values[number], expiry_s) end
for number, entries in pairs(logged) do
  for place = 1, #entries - 1 do redis.call('XADD', KEYS[number], '*', 'event', entries[place]) end
  redis.call('XADD', KEYS[number], 'MAXLEN', '~', log_entries, '*', 'event', entries[#entries])
end
for number, counts in pairs(counted) do
  for item, count in pairs(counts) do redis.call('HINCRBY', KEYS[number], item, count) end
  redis.call('EXPIRE', KEYS[number], counters_expiry_s)
end
return flags
