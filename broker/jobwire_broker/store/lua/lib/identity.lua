--- One job where several callers ask for it: idempotency keys, unique jobs, debounce and throttle.
--
-- What was asked for stands in section 11 of the record:
--   'k' ttl (8) key               idempotency
--   't' period (8) key            throttle
--   'u' key                       unique
--   'd' delay (8) most (8) key    debounce; most: the maximum wait, 0 for none
-- and the job that holds a key in a string `i<kind><key>`:
--   k   length of the id (1) id signature    goes with its ttl, whatever becomes of the job
--   t   id                                   goes with its period
--   u   id                                   goes with the end of the job
--   d   date of the first call in ms (8) id  goes with the end of the job; a later job takes it over once this one has started
-- A job whose end frees its key has FLAG_KEPT.
local identity = {}

-- kind, key of the store, first number, second number
function identity.read(ctx, ask)
  local kind = string.sub(ask, 1, 1)
  if kind == 'u' then return kind, ctx.base .. 'i' .. ask, 0, 0 end
  local first = struct.unpack('>I8', ask, 2)
  if kind == 'd' then return kind, ctx.base .. 'id' .. string.sub(ask, 18), first, (struct.unpack('>I8', ask, 10)) end
  return kind, ctx.base .. 'i' .. kind .. string.sub(ask, 10), first, 0
end

-- Whether the end of such a job frees its key.
function identity.ends(ask)
  local kind = string.sub(ask, 1, 1)
  return kind == 'u' or kind == 'd'
end

-- The id of the job that holds a key, from the key's value.
function identity.holder_of(kind, value)
  if kind == 'k' then return string.sub(value, 2, byte(value) + 1) end
  return kind == 'd' and string.sub(value, 9) or value
end

-- A call that was answered with another job: in the ring its id stands for that one, so that a repetition of the call neither replaces it again nor makes a job of
-- its own when that one has ended meanwhile. Such an entry names no state, and goes on with the id of the job.
function identity.alias(ctx, word, id, other)
  note_date(ctx, id)
  gather(ctx, ring_slot(ctx), id, NO_TOKEN .. NO_TOKEN .. '\0\0' .. (word == 'FOUND' and '\2' or '\1') .. other)
end

-- The answer that names a job. To the call that made it, it was made.
function identity.naming(ctx, word, id, holder)
  if id == holder then return 'MADE' end
  if not ctx.only_reads then identity.alias(ctx, word, id, holder) end
  return word .. ' ' .. holder
end

-- Give the waiting job of an earlier call what a later one brings.
function identity.replace(ctx, j, tail, delay_ms, latest_ms)
  depart(ctx, j)
  local due_ms = math.min(ctx.now_ms + delay_ms, latest_ms)
  if due_ms > ctx.now_ms then
    j.state, j.order = STATE.DELAYED, due_ms * 1000
  elseif j.state == STATE.DELAYED then
    j.state, j.order = STATE.WAITING, next_number(ctx)
  end
  contents.set(ctx, j, tail)
  touch(ctx, j)
end

function identity.debounce(ctx, id, tail, value, delay_ms, most_ms)
  local holder = identity.holder_of('d', value)
  -- It may be of this very call, and not written yet.
  send_gathered(ctx)
  local j = find(ctx, holder)
  if not j or (j.state ~= STATE.WAITING and j.state ~= STATE.DELAYED) or j.token > 0 then return nil end
  identity.replace(ctx, j, tail, delay_ms, most_ms > 0 and struct.unpack('>I8', value) + most_ms or math.huge)
  return identity.naming(ctx, 'REPLACED', id, holder)
end

-- The answer to a call that asks for a job with an identity; nil when the job is to be made. What differs from an idempotency key's first call is for the caller
-- to find out: 'CONFLICT' names what the key holds.
function identity.answer(ctx, id, tail, ask, signature)
  local kind, key, first, second = identity.read(ctx, ask)
  local value = redis.call('GET', key)
  if not value then return nil end
  if kind == 'd' then return identity.debounce(ctx, id, tail, value, first, second) end
  if kind == 'k' and string.sub(value, byte(value) + 2) ~= signature then return 'CONFLICT ' .. value end
  return identity.naming(ctx, 'FOUND', id, identity.holder_of(kind, value))
end

-- The same without touching anything: nil also where a job would have to be changed.
function identity.answer_without_change(ctx, id, ask, signature)
  ctx.only_reads = true
  return string.sub(ask, 1, 1) ~= 'd' and identity.answer(ctx, id, '', ask, signature) or nil
end

-- Let a job that was just made hold its key.
function identity.take(ctx, id, ask, signature)
  local kind, key, first = identity.read(ctx, ask)
  if kind == 'u' then
    redis.call('SET', key, id)
  elseif kind == 'd' then
    redis.call('SET', key, number8(ctx.now_ms) .. id)
  elseif kind == 'k' then
    redis.call('SET', key, string.char(#id) .. id .. signature, 'PX', first)
  else
    redis.call('SET', key, id, 'PX', first)
  end
end

-- Free the key that ends with a job.
function identity.free(ctx, j)
  local ask = section(j.body, TAG.IDENTITY)
  if not ask or not identity.ends(ask) then return end
  local kind, key = identity.read(ctx, ask)
  local value = redis.call('GET', key)
  if value and identity.holder_of(kind, value) == j.id then redis.call('UNLINK', key) end
end

-- Let a job that had ended hold its unique key again. The id of another that holds it now; nil when there is none.
function identity.retake(ctx, j)
  local ask = section(j.body, TAG.IDENTITY)
  if not ask or string.sub(ask, 1, 1) ~= 'u' then return nil end
  local _, key = identity.read(ctx, ask)
  local holder = redis.call('GET', key)
  if holder and holder ~= j.id then return holder end
  redis.call('SET', key, j.id)
  return nil
end
