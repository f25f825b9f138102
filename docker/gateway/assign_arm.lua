-- Finds a request's arm at the edge, by the service's own rule, and sets it as X-Arm.
--
-- The unit is the body's unit_id, or else its user_id. An id with a backslash, a batch, and a body
-- beyond Envoy's buffer get no arm here. What a client sends as X-Arm is taken away: to let some
-- of them force an arm, set it behind this filter.
--
-- The rule is GrowthBook's public hash, version 2, of seed .. unit, in [0, 1) with four decimals;
-- arm i starts at the sum of the weights before it and spans coverage * weight.

local EXPERIMENT = {
  name = "gateway",
  seed = "gateway", -- as in the definition; by default its name
  coverage = 1.0,
  arms = { { name = "control", weight = 0.5 }, { name = "treatment", weight = 0.5 } },
}

local TWO_32 = 4294967296

-- Code points of UTF-8: the hash is of characters, not of bytes.
local function code_points(text)
  local points, at = {}, 1
  while at <= #text do
    local first = text:byte(at)
    local more = first < 0x80 and 0 or first < 0xE0 and 1 or first < 0xF0 and 2 or 3
    local point = more == 0 and first or first % 2 ^ (6 - more)
    for offset = 1, more do point = point * 64 + (text:byte(at + offset) or 0) % 64 end
    points[#points + 1] = point
    at = at + more + 1
  end
  return points
end

local function fnv1a_32(text)
  local value = 0x811C9DC5
  for _, point in ipairs(code_points(text)) do
    value = bit.bxor(value, point) % TWO_32
    -- times 0x01000193 = 2^24 + 403, in two parts that a double holds exactly
    value = (value * 403 + value % 256 * 16777216) % TWO_32
  end
  return value
end

local function bucket_of(seed, unit)
  return fnv1a_32(string.format("%d", fnv1a_32(seed .. unit))) % 10000 / 10000
end

local function arm_of(unit)
  local bucket, start = bucket_of(EXPERIMENT.seed, unit), 0
  for _, arm in ipairs(EXPERIMENT.arms) do
    if start <= bucket and bucket < start + EXPERIMENT.coverage * arm.weight then
      return arm.name
    end
    start = start + arm.weight
  end
end

local function unit_of(body)
  for _, name in ipairs({ "unit_id", "user_id" }) do
    local unit = body:match('"' .. name .. '"%s*:%s*"([^"\\]+)"')
    if unit then return unit end
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  headers:remove("x-arm")
  headers:remove("x-experiment")
  local path = headers:get(":path") or ""
  if not path:match("^/recommend/") or path:match("^/recommend/batch") then return end
  local body = handle:body()
  if not body then return end
  local unit = unit_of(body:getBytes(0, body:length()))
  local arm = unit and arm_of(unit)
  if arm then
    headers = handle:headers() -- waiting for the body has made the old one useless
    headers:add("x-arm", arm)
    headers:add("x-experiment", EXPERIMENT.name)
  end
  handle:clearRouteCache() -- the route depends on the header
end
