--- Read what a job keeps beside its record.
-- logs     KEYS[1] the queue's meta hash; ARGV id, cursor after which to read, lines
--          Returns { whether the job is there, else the state of its end, head of its log ('' for none), piece, piece … }: pieces that hold so many lines after
--          the cursor, as far as there are so many (lib/kept.lua)
-- kept     KEYS[1] the same; ARGV id
--          Returns { head of its log, checkpoint }, '' for none

-- The place of the first piece that has a line after the cursor.
local function first_piece(key, count, after)
  local low, high = 0, count
  while low < high do
    local middle = math.floor((low + high) / 2)
    local first, _, lines = struct.unpack(kept.PIECE, redis.call('LINDEX', key, middle))
    if first + lines - 1 <= after then low = middle + 1 else high = middle end
  end
  return low
end

local function logs(keys, argv)
  local base, id = string.sub(keys[1], 1, -2), argv[1]
  local key = base .. 'L' .. id
  if redis.call('EXISTS', base .. 'j' .. id) == 0 then return { 0, ring_get({ base = base }, id) or 0, '' } end
  local count = redis.call('LLEN', key) - 1
  if count < 1 then return { 1, 0, '' } end
  local first = first_piece(key, count, tonumber(argv[2]))
  local pieces = first < count and redis.call('LRANGE', key, first, math.min(first + tonumber(argv[3]), count) - 1) or {}
  return { 1, 0, redis.call('LINDEX', key, -1), unpack(pieces) }
end

local function kept_of(keys, argv)
  local base = string.sub(keys[1], 1, -2)
  return { redis.call('LINDEX', base .. 'L' .. argv[1], -1) or '', redis.call('GETRANGE', base .. 'y' .. argv[1], kept.LEFT_SIZE, -1) }
end

register('logs', logs, { 'no-writes' })
register('kept', kept_of, { 'no-writes' })
