-- Adds events to the values of some users, and those that are new to the event log and to the counters
-- of their hours: all or nothing.
--
-- KEYS     streams of the event log; users' values; counters of some hours, by item hash
--          (popularity_counters.py)
-- ARGV[1]  events kept a side          ARGV[2]  expiry of a value in seconds
-- ARGV[3]  entries kept in the stream  ARGV[4]  expiry of the counters in seconds
-- ARGV[5]  now, counted in parts of a value's expiry
-- ARGV[6]  the events, one after the other, little-endian:
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
-- whatever they are. Its expiry is renewed once in each part of it. docs/decisions/0046, 0059.

local MAX_EVENTS, EXPIRY_S, LOG_ENTRIES = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local COUNTERS_EXPIRY_S, NOW = ARGV[4], tonumber(ARGV[5])
local MAGIC, HEADER_BYTES, RECORD_BYTES, UNITS_AT, RENEWED_AT = 'LSV\2', 12, 24, 24, 10
local MAGIC_1, HEADER_BYTES_1 = 'LSV\1', 16
local ALL = ('\255'):rep(8)

-- How many of a side's slots are filled, by bisection among those that were empty when all was written
-- last. The first one begins at byte `at` of `text`, offsets counting from 0.
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

local function read_value(key)
  local text = redis.call('GET', key)
  if not text then
    return { text = '', slot_bytes = RECORD_BYTES, slots = { 0, 0 }, is_rewritten = true }
  end
  if text:sub(1, 4) == MAGIC_1 then
    local sides, slot_bytes = read_version_1(text)
    local parts, slots = { ('\0'):rep(HEADER_BYTES) }, { #sides[1], #sides[2] }
    for _, side in ipairs(sides) do
      for _, slot in ipairs(side) do parts[#parts + 1] = padded(slot, slot_bytes) end
    end
    return { text = table.concat(parts), slot_bytes = slot_bytes, slots = slots,
      is_rewritten = true }
  end
  local magic, slot_bytes, videos, comments, renewed = struct.unpack('<c4I2I2I2I2', text)
  if magic ~= MAGIC or #text ~= HEADER_BYTES + (videos + comments) * slot_bytes then
    error('history value of an unknown format')
  end
  return { text = text, slot_bytes = slot_bytes, slots = { videos, comments }, renewed = renewed,
    is_rewritten = false }
end

-- A side of a value, looked at when it is needed. Its slots begin at byte `region_at` of `text`, and
-- `used` of them are filled; of those the `count` from byte `at` on are kept, and `added` come after.
local function side_of(value, number)
  if not value[number] then
    local slot_bytes, slots = value.slot_bytes, value.slots[number]
    local region_at = HEADER_BYTES + (number - 1) * value.slots[1] * slot_bytes
    local used = used_slots(value.text, region_at, slots, slot_bytes)
    local count = math.min(used, MAX_EVENTS)
    value[number] = { text = value.text, region_at = region_at, used = used, empty = slots - used,
      at = region_at + (used - count) * slot_bytes, count = count, added = {} }
  end
  return value[number]
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
  for number = 1, 2 do
    local side = side_of(value, number)
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

-- Whether `wanted` stands at byte `from` of `text`, or some steps behind it and before `to`.
local function is_among(text, wanted, from, to, step)
  local at = string.find(text, wanted, from + 1, true)
  while at and at <= to do
    if (at - 1 - from) % step == 0 then return true end
    at = string.find(text, wanted, at + 1, true)
  end
  return false
end

local function holds_event(value, side, event_hash)
  local stop = side.at + side.count * value.slot_bytes
  if is_among(side.text, event_hash, side.at, stop, value.slot_bytes) then return true end
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

local function trim(value, side)
  local excess = side.count + #side.added - MAX_EVENTS
  if excess > side.count then settle(value, side) end
  if excess > 0 then
    side.at, side.count = side.at + excess * value.slot_bytes, side.count - excess
  end
end

-- How many 4 bytes the longest id takes: nearly always as many as a slot has room for.
local function widest_id(value)
  local room, widest = (value.slot_bytes - RECORD_BYTES) / 4, 0
  for number = 1, 2 do
    local side = side_of(value, number)
    local from, stop = side.at + UNITS_AT - 1, side.at + side.count * value.slot_bytes
    if is_among(side.text, string.char(room), from, stop, value.slot_bytes) then return room end
    for at = from + 1, stop, value.slot_bytes do widest = math.max(widest, side.text:byte(at)) end
    for _, slot in ipairs(side.added) do widest = math.max(widest, slot:byte(UNITS_AT)) end
  end
  return widest
end

-- As narrow as the ids allow, with an empty slot for every eighth one of a side, and one more. Put
-- together at once: what a long string costs here is making it.
local function rewrite_value(key, value)
  local slot_bytes = RECORD_BYTES + 4 * widest_id(value)
  if slot_bytes ~= value.slot_bytes then resize_slots(value, slot_bytes) end
  local parts, slots = { '' }, {}
  for number = 1, 2 do
    local side = side_of(value, number)
    local used = side.count + #side.added
    slots[number] = used > 0 and used + math.floor(used / 8) + 1 or 0
    parts[#parts + 1] = kept_of(side, slot_bytes)
    for _, slot in ipairs(side.added) do parts[#parts + 1] = slot end
    parts[#parts + 1] = ('\0'):rep((slots[number] - used) * slot_bytes)
  end
  parts[1] = struct.pack('<c4I2I2I2I2', MAGIC, slot_bytes, slots[1], slots[2], NOW)
  redis.call('SET', key, table.concat(parts), 'EX', EXPIRY_S)
end

local function write_value(key, value)
  for number = 1, 2 do
    local side = value[number]
    if side and #side.added > side.empty then value.is_rewritten = true end
  end
  if value.is_rewritten then return rewrite_value(key, value) end
  for number = 1, 2 do
    local side = value[number]
    if side and #side.added > 0 then
      local at = side.region_at + side.used * value.slot_bytes
      redis.call('SETRANGE', key, at, table.concat(side.added))
    end
  end
  if value.renewed ~= NOW then
    redis.call('SETRANGE', key, RENEWED_AT, struct.pack('<I2', NOW))
    redis.call('EXPIRE', key, EXPIRY_S)
  end
end

-- Two commands for all items of an hour: a command costs more than what it does to one. Among them is
-- `ALL`, no item but their sum: whoever has read an hour sees by it alone whether that is still so.
local function add_counts(key, counts)
  local items, totals, all = { ALL }, {}, 0
  for item, count in pairs(counts) do
    items[#items + 1], all = item, all + count
  end
  counts[ALL] = all
  for place, total in ipairs(redis.call('HMGET', key, unpack(items))) do
    local item = items[place]
    totals[2 * place - 1], totals[2 * place] = item, (total or 0) + counts[item]
  end
  redis.call('HSET', key, unpack(totals))
  redis.call('EXPIRE', key, COUNTERS_EXPIRY_S)
end

local events = ARGV[6]
local values, flags, logged, changed, counted = {}, {}, {}, {}, {}
local next_at = 1
while next_at <= #events do
  local stream, number, side_number, counters, slot_size, entry_size, at =
    struct.unpack('<I2I2I1I2I2I4', events, next_at)
  next_at = at + slot_size + entry_size
  local value = values[number]
  if not value then
    value = read_value(KEYS[number])
    values[number] = value
  end
  local side = side_of(value, side_number)
  local slot = events:sub(at, at + slot_size - 1)
  if holds_event(value, side, slot:sub(1, 8)) then
    flags[#flags + 1] = 0
  else
    if slot_size > value.slot_bytes then resize_slots(value, slot_size) end
    local is_repeat = insert(value, side, padded(slot, value.slot_bytes))
    trim(value, side)
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

for number in pairs(changed) do write_value(KEYS[number], values[number]) end
for number, entries in pairs(logged) do
  for place = 1, #entries - 1 do redis.call('XADD', KEYS[number], '*', 'event', entries[place]) end
  redis.call('XADD', KEYS[number], 'MAXLEN', '~', LOG_ENTRIES, '*', 'event', entries[#entries])
end
for number, counts in pairs(counted) do add_counts(KEYS[number], counts) end
return flags
