--- The ends of removed jobs stay known for two minutes at least, so that a late watcher, a repeated finish and a repeated enqueue get their answer.
--
-- Five hashes take turns, half a minute each; the one whose turn comes again is emptied first, off the main thread.
local function ring_turn(ctx)
  local bucket = math.floor(ctx.now_ms / 1000 / RING_SLOT_S)
  if bucket <= ctx.bucket then return end
  for b = math.max(ctx.bucket + 1, bucket - RING_SLOTS + 1), bucket do redis.call('UNLINK', ctx.base .. 'g' .. (b % RING_SLOTS)) end
  ctx.bucket = bucket
  set_meta(ctx, 'bucket', bucket)
end

local function ring_add(ctx, id, state, ended, revision, token)
  ring_turn(ctx)
  gather(ctx, RING_ADD[ctx.bucket % RING_SLOTS], id, struct.pack('>BBI8I8', state, ended, revision, token))
end

-- state, ended, revision, token of a removed job; nil when nothing is known.
local function ring_get(ctx, id)
  for slot = 0, RING_SLOTS - 1 do
    local found = redis.call('HGET', ctx.base .. 'g' .. slot, id)
    if found then return struct.unpack('>BBI8I8', found) end
  end
  return nil
end

-- The set of those of `ids` that were removed lately.
local function ring_known(ctx, ids)
  local known = {}
  for slot = 0, RING_SLOTS - 1 do
    local found = redis.call('HMGET', ctx.base .. 'g' .. slot, unpack(ids))
    for i = 1, #ids do
      if found[i] then known[ids[i]] = true end
    end
  end
  return known
end
