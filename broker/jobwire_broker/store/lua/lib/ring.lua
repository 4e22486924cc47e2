--- The ends of removed jobs stay known for two minutes at least, so that a late watcher, a repeated finish and a repeated enqueue get their answer.
--
-- Five hashes take turns, half a minute each; the one whose turn comes again is emptied first, off the main thread.
local YOUNG_US = 120000000

local function ring_turn(ctx)
  local bucket = math.floor(ctx.now_ms / 1000 / RING_SLOT_S)
  if bucket <= ctx.bucket then return end
  for b = math.max(ctx.bucket + 1, bucket - RING_SLOTS + 1), bucket do redis.call('UNLINK', ctx.base .. 'g' .. (b % RING_SLOTS)) end
  ctx.bucket = bucket
  set_meta(ctx, 'bucket', bucket)
end

-- `created`: only the id of a job that was removed soon after it was made is still taken, for it may be asked for again by the same call.
local function ring_add(ctx, id, state, ended, revision, token, created)
  ring_turn(ctx)
  local is_young = ctx.now_us - created < YOUNG_US and 1 or 0
  gather(ctx, RING_ADD[ctx.bucket % RING_SLOTS], id, struct.pack('>BBI8I8B', state, ended, revision, token, is_young))
end

-- state, ended, revision, token of a removed job; nil when nothing is known.
local function ring_get(ctx, id)
  for slot = 0, RING_SLOTS - 1 do
    local found = redis.call('HGET', ctx.base .. 'g' .. slot, id)
    if found then return struct.unpack('>BBI8I8', found) end
  end
  return nil
end

-- The set of those of `ids` that were removed lately, soon after they were made.
local function ring_known(ctx, ids)
  local known = {}
  for slot = 0, RING_SLOTS - 1 do
    local found = redis.call('HMGET', ctx.base .. 'g' .. slot, unpack(ids))
    for i = 1, #ids do
      if found[i] and string.byte(found[i], 19) ~= 0 then known[ids[i]] = true end
    end
  end
  return known
end
