--- The ends of removed jobs stay known for two minutes at least, so that a late watcher, a repeated finish and a repeated enqueue get their answer.
--
-- Five hashes take turns, half a minute each; the one whose turn comes again is emptied first, off the main thread.
local YOUNG_US = 120000000
local DAY_MS = 86400000

local function ring_turn(ctx)
  local bucket = math.floor(ctx.now_ms / 1000 / RING_SLOT_S)
  if bucket <= ctx.bucket then return end
  for b = math.max(ctx.bucket + 1, bucket - RING_SLOTS + 1), bucket do redis.call('UNLINK', ctx.base .. 'g' .. (b % RING_SLOTS)) end
  ctx.bucket = bucket
  set_meta(ctx, 'bucket', bucket)
end

-- Ids that we make begin with their date (ms). The latest one in the ring is remembered, so that newer ids need not be looked for. A date two days ahead is
-- not believed, lest one bad clock makes all pay; ids a day ahead are always looked for.
local function note_date(ctx, id)
  if #id ~= 16 or byte(id) >= 32 then return end
  local ms = struct.unpack('>I6', id)
  if ms > ctx.newest and ms < ctx.now_ms + 2 * DAY_MS then ctx.newest, ctx.newer = ms, true end
end

-- The hash whose turn it is.
local function ring_slot(ctx)
  local slot = ctx.ring_slot
  if not slot then
    ring_turn(ctx)
    slot = RING_ADD[ctx.bucket % RING_SLOTS]
    ctx.ring_slot = slot
  end
  return slot
end

-- `numbers` are revision and token, 8 bytes each. Only the id of a job that was removed soon after it was made is still taken, for it may be asked for again
-- by the same call.
local function ring_add(ctx, id, numbers, ended, state, created)
  note_date(ctx, id)
  gather(ctx, ring_slot(ctx), id, numbers .. string.char(ended, state, ctx.now_us - created < YOUNG_US and 1 or 0))
end

-- state, ended, revision, token of a removed job; nil when nothing is known.
local function ring_get(ctx, id)
  for slot = 0, RING_SLOTS - 1 do
    local found = redis.call('HGET', ctx.base .. 'g' .. slot, id)
    if found then
      local revision, token, ended, state = struct.unpack('>I8I8BB', found)
      if state > 0 then return state, ended, revision, token end
    end
  end
  return nil
end

-- Those of `ids` that were removed lately, soon after they were made (true), or that stand for another job (its id). `oldest` and `latest` are their
-- first and last date in ms; `oldest` is 0 when one has none.
local function ring_known(ctx, ids, oldest, latest)
  local known = {}
  if #ids == 0 or (oldest > ctx.newest and latest < ctx.now_ms + DAY_MS) then return known end
  for slot = 0, RING_SLOTS - 1 do
    local found = redis.call('HMGET', ctx.base .. 'g' .. slot, unpack(ids))
    for i = 1, #ids do
      local mark = found[i] and string.byte(found[i], 19)
      if mark and mark ~= 0 then
        local other = string.sub(found[i], 20)
        known[ids[i]] = other == '' and 'MADE' or (mark == 2 and 'FOUND ' or 'REPLACED ') .. other
      end
    end
  end
  return known
end
