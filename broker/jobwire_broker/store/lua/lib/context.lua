--- One call: the queue's meta hash is read once at its start, and written once at its end.
--
-- All keys of a queue are `<base><suffix>` with the queue's hash tag in <base>:
--   m   hash    n (last number given), seq (events), clock and last_pulse (ms), paused, hungry, solo, sid, bucket, completed_total, failed_total
--   w   zset    waiting, score = priority, member = order (8 bytes) .. id
--   o   zset    waiting to be delivered alone, same form
--   d   zset    delayed, score = due date in ms, same member
--   a   zset    leases, score 0, member = sid (4) .. token (8) .. id
--   s   hash    sessions: session (16) -> sid (4) epoch (4) solo token (8) descriptor; sid (4) -> session (16)
--   t   zset    deadlines on the pulse clock in ms, member = 'S' .. session | 'J' .. token (8) .. id
--   k   hash    cancels not yet confirmed by the worker: id -> sid (4) .. token (8)
--   c f x e     zsets of COMPLETED, FAILED, CANCELLED, EXPIRED, score = revision at the end, member = id
--   g0 … g4     hashes, the ends of removed jobs by time: id -> state (1) ended (1) revision (8) token (8) young (1)
--   j<id>       string, the record
-- Channels: E (events) and W (wake-ups).
local FINAL_KEY = { [STATE.COMPLETED] = 'c', [STATE.FAILED] = 'f', [STATE.CANCELLED] = 'x', [STATE.EXPIRED] = 'e' }
local FINAL_ADD = { [STATE.COMPLETED] = 'ZADD c', [STATE.FAILED] = 'ZADD f', [STATE.CANCELLED] = 'ZADD x', [STATE.EXPIRED] = 'ZADD e' }
local RING_SLOTS, RING_SLOT_S = 5, 30
local RING_ADD = { [0] = 'HSET g0', 'HSET g1', 'HSET g2', 'HSET g3', 'HSET g4' }

local function open(key)
  local base = string.sub(key, 1, -2)
  local time = redis.call('TIME')
  local meta = redis.call('HMGET', key, 'n', 'seq', 'clock', 'paused', 'hungry', 'bucket')
  local now_us = time[1] * 1000000 + time[2]
  local last = tonumber(meta[1]) or 0
  return {
    base = base, meta = key, now_us = now_us, now_ms = math.floor(now_us / 1000),
    n = math.max(last, now_us - 1), seq = tonumber(meta[2]) or 0, clock = tonumber(meta[3]) or 0,
    paused = meta[4] == '1', hungry = meta[5] == '1', bucket = tonumber(meta[6]) or 0,
    set = {}, events = {}, batches = {}, trim = {}, added = 0, wake = nil, loud = nil,
  }
end

-- The next of the queue's growing numbers: microseconds since 1970, made unique (RULES 1).
local function next_number(ctx)
  ctx.n = ctx.n + 1
  return ctx.n
end

-- Remember a field of the meta hash, to be written at the end of the call.
local function set_meta(ctx, field, value)
  ctx.set[#ctx.set + 1] = field
  ctx.set[#ctx.set + 1] = value
end

-- Send what was gathered for one command.
local function send(ctx, batch)
  local command, suffix = string.match(batch.name, '^(%u+) (%w+)$')
  redis.call(command, ctx.base .. suffix, unpack(batch, 1, batch.n))
  batch.n = 0
end

-- Gather arguments for one variadic command, for example gather(ctx, 'ZADD a', 0, member). `unpack` fails at 8,000 values: a batch is sent at 4,000.
local function gather(ctx, name, first, second)
  local batch = ctx.batches[name]
  if not batch then
    batch = { n = 0, name = name }
    ctx.batches[name] = batch
    ctx.batches[#ctx.batches + 1] = batch
  end
  local n = batch.n + 1
  batch[n] = first
  if second then
    n = n + 1
    batch[n] = second
  end
  batch.n = n
  if n >= 4000 then send(ctx, batch) end
end

local function flush(ctx)
  local batches = ctx.batches
  for i = 1, #batches do
    if batches[i].n > 0 then send(ctx, batches[i]) end
  end
end

-- Whether anybody listens to this queue's events; asked once a call.
local function is_watched(ctx)
  if ctx.loud == nil then
    local answer = redis.call('PUBSUB', 'NUMSUB', ctx.base .. 'E')
    ctx.loud = tonumber(answer[2]) > 0
  end
  return ctx.loud
end

-- Tell watchers how a job is now: its record without the payload. Without `record` it is read, when anybody listens.
local function emit(ctx, id, record)
  ctx.changed = true
  if not is_watched(ctx) then return end
  local body = brief(record or redis.call('GET', ctx.base .. 'j' .. id))
  if #body > EVENT_BYTES then body = brief(with_section(string.sub(body, 1, HEADER_SIZE + 1 + string.byte(body, HEADER_SIZE + 1)), TAG_TRUNCATED, '\1')) end
  ctx.events[#ctx.events + 1] = struct.pack('>I2', #id) .. id .. struct.pack('>I4', #body) .. body
end

local function waiting_count(ctx)
  return redis.call('ZCARD', ctx.base .. 'w') + redis.call('ZCARD', ctx.base .. 'o')
end

-- Write what was gathered and tell it. The last thing that a function does.
local function close(ctx)
  flush(ctx)
  -- A call that found nothing to do leaves no trace, not even in a queue that does not exist.
  if not ctx.changed and not ctx.wake and #ctx.set == 0 then return end
  set_meta(ctx, 'n', ctx.n)
  if ctx.changed then
    set_meta(ctx, 'seq', ctx.seq + 1)
    if is_watched(ctx) then
      redis.call('PUBLISH', ctx.base .. 'E', number8(ctx.seq) .. number8(ctx.seq + 1) .. table.concat(ctx.events))
    end
    ctx.seq = ctx.seq + 1
  end
  -- Some broker asked for more than there was: tell it of what is left now.
  if ctx.added > 0 and ctx.hungry and waiting_count(ctx) > 0 then
    ctx.wake = ctx.wake or 'work'
    ctx.hungry = false
    set_meta(ctx, 'hungry', '0')
  end
  redis.call('HSET', ctx.meta, unpack(ctx.set))
  if ctx.wake then redis.call('PUBLISH', ctx.base .. 'W', ctx.wake) end
end
