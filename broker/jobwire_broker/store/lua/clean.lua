--- Forget jobs that have ended, the oldest first, at most STEP in a call.
-- KEYS[1]  the queue's meta hash
-- ARGV     state; grace in ms; the revision up to which to forget, 0 in the first of several calls
-- Returns  { count, the revision up to which to forget, 1 when there may be more }
-- What a call costs depends on what it forgets, and not on what is kept: both indexes are read from their old end.
local STEP = 256

-- With no grace all that has ended: a number given in a busy moment may be ahead of the store's date.
local function newest_to_clean(ctx, grace_ms)
  if grace_ms == 0 then return ctx.n end
  return ctx.now_us - grace_ms * 1000
end

-- Answers how many jobs were forgotten, and how many entries were looked at for that.
local function clean_completed(ctx, newest)
  local entries = redis.call('LRANGE', ctx.base .. 'c', 0, STEP - 1)
  local count = 0
  while entries[count + 1] and struct.unpack('>I8', entries[count + 1]) <= newest do count = count + 1 end
  if count == 0 then return 0, 0 end
  return pop_completed(ctx, count)
end

local function clean_others(ctx, state, newest)
  local ids = redis.call('ZRANGEBYSCORE', ctx.base .. FINAL_KEY[state], '-inf', string.format('%.0f', newest), 'LIMIT', 0, STEP)
  forget(ctx, state, ids)
  return #ids, #ids
end

-- Those that say for themselves how long they are kept.
local function clean_own(ctx, state, newest, count)
  local ids = redis.call('ZRANGEBYSCORE', retention.key(ctx, state), '-inf', string.format('%.0f', newest), 'LIMIT', 0, count)
  retention.forget_own(ctx, ids)
  return #ids
end

local function clean(keys, argv)
  local ctx = open(keys[1])
  local state, newest = tonumber(argv[1]), tonumber(argv[3])
  if newest == 0 then newest = newest_to_clean(ctx, tonumber(argv[2])) end
  local count, passed
  if state == STATE.COMPLETED then
    count, passed = clean_completed(ctx, newest)
  else
    count, passed = clean_others(ctx, state, newest)
  end
  if passed < STEP then
    local own = clean_own(ctx, state, newest, STEP - passed)
    count, passed = count + own, passed + own
  end
  ctx.changed = count > 0
  close(ctx)
  return { count, newest, passed == STEP and 1 or 0 }
end

register('clean', clean, { 'allow-oom' })
