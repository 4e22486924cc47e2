--- Moves between states. Each changes a job's table, writes its header, and gathers the index changes.
local DAY_MS = 86400000
-- How many ended jobs a queue keeps, and for how long (DESIGN 4, Retention).
local KEEP = {
  [STATE.COMPLETED] = { count = 1000, age_ms = DAY_MS },
  [STATE.FAILED] = { count = 10000, age_ms = 30 * DAY_MS },
  [STATE.CANCELLED] = { count = 1000, age_ms = DAY_MS },
  [STATE.EXPIRED] = { count = 1000, age_ms = DAY_MS },
}

-- A jobwire.v1.Failure that Jobwire itself gives: fields 1, 2 and 4, each shorter than 128 bytes.
local function own_failure(kind, message)
  return '\10' .. string.char(#kind) .. kind .. '\18' .. string.char(#message) .. message .. '\34' .. string.char(#kind) .. kind
end
local function poison()
  return own_failure('POISON', 'its worker was lost three times while it held this job, the last time with no other job')
end
local function no_handler()
  return own_failure('NO_HANDLER', 'five workers in a row had no handler of this job name')
end

-- Write a changed job. With `sections` = {tag = bytes} the whole record is written anew, otherwise the header alone.
local function save(ctx, id, j, sections)
  j.revision = next_number(ctx)
  local header = encode(j)
  local key = ctx.base .. 'j' .. id
  if not sections then
    redis.call('SETRANGE', key, 0, header)
    return emit(ctx, id)
  end
  local record = header .. string.sub(redis.call('GET', key), HEADER_SIZE + 1)
  for tag, bytes in pairs(sections) do record = with_section(record, tag, bytes) end
  redis.call('SET', key, record)
  emit(ctx, id, record)
end

-- Let a job wait for a worker, at its place.
local function move_to_waiting(ctx, id, j, sections)
  j.state = STATE.WAITING
  j.sid = 0
  gather(ctx, has_flag(j, FLAG_ALONE) and 'ZADD o' or 'ZADD w', j.priority, place(j, id))
  ctx.added = ctx.added + 1
  save(ctx, id, j, sections)
end

-- Let a job wait for its time.
local function move_to_delayed(ctx, id, j, delay_ms, sections)
  j.state = STATE.DELAYED
  j.sid = 0
  local due_ms = ctx.now_ms + delay_ms
  j.order = due_ms * 1000
  gather(ctx, 'ZADD d', due_ms, place(j, id))
  ctx.next_due_changed = true
  save(ctx, id, j, sections)
end

-- End a job.
local function move_to_final(ctx, id, j, state, sections)
  j.state = state
  j.sid = 0
  if state == STATE.COMPLETED then
    j.progress = 10000
    ctx.completed = (ctx.completed or 0) + 1
  elseif state == STATE.FAILED then
    ctx.failed = (ctx.failed or 0) + 1
  end
  save(ctx, id, j, sections)
  gather(ctx, FINAL_ADD[state], j.revision, id)
  ctx.trim[state] = true
end

-- Take a job that does not run out of the index that it is in.
local function leave_index(ctx, id, j)
  if j.state == STATE.WAITING then
    redis.call('ZREM', ctx.base .. (has_flag(j, FLAG_ALONE) and 'o' or 'w'), place(j, id))
  elseif j.state == STATE.DELAYED then
    redis.call('ZREM', ctx.base .. 'd', place(j, id))
  elseif FINAL_KEY[j.state] then
    redis.call('ZREM', ctx.base .. FINAL_KEY[j.state], id)
  end
end

-- End a lease: the job is nobody's now.
local function leave_lease(ctx, id, j)
  gather(ctx, 'ZREM a', lease_place(j, id))
  if has_flag(j, FLAG_CANCEL_REQUESTED) then
    gather(ctx, 'ZREM t', 'J' .. number8(j.token) .. id)
    gather(ctx, 'HDEL k', id)
  end
  if has_flag(j, FLAG_ALONE) then
    local session = redis.call('HGET', ctx.base .. 's', struct.pack('>I4', j.sid))
    local row = session and redis.call('HGET', ctx.base .. 's', session)
    if row then redis.call('HSET', ctx.base .. 's', session, string.sub(row, 1, 8) .. number8(0) .. string.sub(row, 17)) end
  end
end

-- Forget ended jobs that are over the count or the age, and keep their ends in the ring.
local function forget(ctx, key, ids)
  if #ids == 0 then return end
  local records = {}
  for i = 1, #ids do
    local header = redis.call('GETRANGE', ctx.base .. 'j' .. ids[i], 0, HEADER_SIZE - 1)
    if #header == HEADER_SIZE then
      local _, state, _, _, _, revision, _, token, created = struct.unpack('>BBBBi4I8I8I8I8', header)
      ring_add(ctx, ids[i], state, string.byte(header, HEADER_SIZE - 1), revision, token, created)
    end
    records[i] = ctx.base .. 'j' .. ids[i]
  end
  redis.call('UNLINK', unpack(records))
  redis.call('ZREM', ctx.base .. key, unpack(ids))
end

-- After a flush: keep each final state that grew within its count.
local function trim(ctx)
  for state in pairs(ctx.trim) do
    local key = FINAL_KEY[state]
    local over = redis.call('ZCARD', ctx.base .. key) - KEEP[state].count
    if over > 0 then forget(ctx, key, redis.call('ZRANGE', ctx.base .. key, 0, math.min(over, 256) - 1)) end
  end
  ctx.trim = {}
  if ctx.completed then redis.call('HINCRBY', ctx.meta, 'completed_total', ctx.completed) end
  if ctx.failed then redis.call('HINCRBY', ctx.meta, 'failed_total', ctx.failed) end
  ctx.completed, ctx.failed = nil, nil
end

-- The wait before the next run: base · factor^(runs so far − 1), capped, plus jitter. `fraction` is 0 to 1.
local function backoff_ms(record, attempt, fraction)
  local base, factor, cap, jitter = 2000, 2, DAY_MS, 0.1
  local own = section(record, TAG_BACKOFF)
  if own then
    local f, j
    base, f, cap, j = struct.unpack('>I8I4I8I2', own)
    factor, jitter = f / 1000, j / 10000
  end
  -- The power may be infinite, and nothing times infinity is no number.
  local wait = base > 0 and math.min(base * factor ^ math.max(attempt - 1, 0), cap) or 0
  return math.floor(wait * (1 + jitter * fraction))
end

-- A fraction that looks random and is the same on every replica: it comes from the token.
local function jitter_of(token)
  return (token % 1000003 * 0.6180339887498949) % 1
end
