--- Moves between states. Each changes a job's table; flush writes it.
-- A jobwire.v1.Failure that Jobwire itself gives: fields 1, 2 and 4, each shorter than 128 bytes.
local function own_failure(kind, message)
  return '\10' .. string.char(#kind) .. kind .. '\18' .. string.char(#message) .. message .. '\34' .. string.char(#kind) .. kind
end
local function poison()
  return own_failure('POISON', 'its worker was lost three times while it held this job, the last time with no other job')
end
local function timed_out(kind)
  return own_failure(kind, kind == 'TIMEOUT' and 'the attempt took longer than its timeout' or 'its attempts took longer than its total timeout')
end
local function no_handler()
  return own_failure('NO_HANDLER', 'five workers in a row had no handler of this job name')
end

-- Let a job wait for a worker, at its place.
local function move_to_waiting(ctx, j)
  depart(ctx, j)
  j.state, j.sid = STATE.WAITING, 0
  touch(ctx, j)
end

-- Let a job wait for its time.
local function move_to_delayed(ctx, j, delay_ms)
  depart(ctx, j)
  j.state, j.sid, j.order = STATE.DELAYED, 0, (ctx.now_ms + delay_ms) * 1000
  touch(ctx, j)
end

-- End a job.
local function move_to_final(ctx, j, state)
  depart(ctx, j)
  if has_flag(j, FLAG_KEPT) then identity.free(ctx, j) end
  -- The sid stays: it says who ran it last.
  j.state = state
  touch(ctx, j)
  if state == STATE.COMPLETED then
    j.progress = 10000
    if not retention.own(j) then gather(ctx, 'RPUSH c', end_entry(j, j.id)) end
    ctx.completions = ctx.completions + 1
    return
  end
  ctx.other_ends = ctx.other_ends + 1
  if state == STATE.FAILED then
    failures.mark(j)
    ctx.failures = ctx.failures + 1
  end
end

-- Delete a job that does not run: its end goes to the ring, and watchers see it removed.
local function remove(ctx, j)
  depart(ctx, j)
  if has_flag(j, FLAG_KEPT) then identity.free(ctx, j) end
  j.revision, j.state = next_number(ctx), FINAL_KEY[j.state] and j.state or STATE.CANCELLED
  if j.ended == END.NONE then j.ended = END.CANCEL end
  erase(ctx, j)
  j.state = STATE_REMOVED
  ctx.changed = true
  if is_watched(ctx) then tell(ctx, j.id, brief(encode(j))) end
end

-- End a lease: the job is nobody's now.
local function leave_lease(ctx, j)
  depart(ctx, j)
  times.leave(ctx, j)
  if has_flag(j, FLAG_COUNTED) then limits.leave(ctx, j) end
  if has_flag(j, FLAG_CANCEL_REQUESTED) then
    gather(ctx, 'ZREM t', 'J' .. number8(j.token) .. j.id)
    gather(ctx, 'HDEL k', j.id)
  end
  if has_flag(j, FLAG_ALONE) then
    local session = redis.call('HGET', ctx.base .. 's', struct.pack('>I4', j.sid))
    local row = session and redis.call('HGET', ctx.base .. 's', session)
    if row then redis.call('HSET', ctx.base .. 's', session, string.sub(row, 1, 8) .. number8(0) .. string.sub(row, 17)) end
  end
end

-- Take the oldest entries of the COMPLETED, and forget their jobs. The entries say all that the ring must keep, so no record is read. Answers how many jobs they were,
-- and how many entries.
local function pop_completed(ctx, count)
  local entries = redis.call('LPOP', ctx.base .. 'c', count) or {}
  local gone, holes = batch_for(ctx, 'UNLINK', 2 * #entries), 0
  for i = 1, #entries do
    local entry = entries[i]
    local id = sub(entry, END_ENTRY_SIZE + 1)
    if id == '' then
      holes = holes + 1
    else
      local marks = byte(entry, END_ENTRY_SIZE)
      gone.n = gone.n + 1
      gone[gone.n] = ctx.record_key .. id
      if marks >= APART_MARK then
        marks = marks - APART_MARK
        gone.n = gone.n + 1
        gone[gone.n] = ctx.payload_key .. id
      end
      if marks >= KEPT_MARK then
        marks = marks - KEPT_MARK
        unlink_kept(ctx, id)
      end
      ring_add(ctx, id, sub(entry, 1, 16), marks, STATE.COMPLETED, struct.unpack('>I8', entry, 17))
    end
  end
  ctx.holes = ctx.holes - holes
  completed.drop_holes(ctx)
  return #entries - holes, #entries
end

-- Forget the oldest COMPLETED jobs. Answers how many: fewer where many holes are between them.
local function forget_completed(ctx, count)
  local forgotten, passed = 0, 0
  while forgotten < count and passed < completed.HOLES_MAX do
    local jobs, entries = pop_completed(ctx, count - forgotten)
    if entries == 0 then break end
    forgotten, passed = forgotten + jobs, passed + entries
  end
  return forgotten
end

-- Forget jobs that ended otherwise.
local function forget(ctx, state, ids)
  fetch(ctx, ids)
  for i = 1, #ids do
    local j = find(ctx, ids[i])
    if j then
      if state == STATE.FAILED then failures.leave(ctx, j) end
      erase(ctx, j)
    end
    gather(ctx, FINAL_REMOVE[state], ids[i])
  end
end

-- Forget ended jobs that say for themselves how long they are kept.
function retention.forget_own(ctx, ids)
  fetch(ctx, ids)
  for i = 1, #ids do
    local j = find(ctx, ids[i])
    if j then
      depart(ctx, j)
      erase(ctx, j)
    end
  end
end

-- The ends of the oldest jobs of a state, at most `count`.
function retention.oldest_ends(ctx, state, count)
  if state == STATE.COMPLETED then return completed.oldest_ends(ctx, count) end
  local ends = {}
  local found = redis.call('ZRANGE', ctx.base .. FINAL_KEY[state], 0, count - 1, 'WITHSCORES')
  for i = 2, #found, 2 do ends[i / 2] = tonumber(found[i]) end
  return ends
end

-- Forget the oldest jobs of a final state, `own` of which have a retention of their own. Answers how many.
function retention.forget_oldest(ctx, state, count, own)
  local from_own = 0
  if own > 0 then
    local ends = retention.oldest_ends(ctx, state, count)
    -- Among so many holes it is not known which are older.
    if state == STATE.COMPLETED and ctx.holes > completed.HOLES_MAX then count = math.min(count, #ends) end
    from_own = retention.share(ctx, state, count, ends)
  end
  if from_own > 0 then retention.forget_own(ctx, redis.call('ZRANGE', retention.key(ctx, state), 0, from_own - 1)) end
  local rest = count - from_own
  if rest == 0 then return count end
  if state == STATE.COMPLETED then return from_own + forget_completed(ctx, rest) end
  forget(ctx, state, redis.call('ZRANGE', ctx.base .. FINAL_KEY[state], 0, rest - 1))
  return count
end

-- An age of 0: what says nothing for itself goes, and of the rest what is over the count.
local function keep_own(ctx, state, own, others, count)
  local own_over = math.max(0, own - count)
  if own_over > 0 then retention.forget_own(ctx, redis.call('ZRANGE', retention.key(ctx, state), 0, math.min(own_over, retention.STEP) - 1)) end
  if others > 0 then retention.forget_oldest(ctx, state, math.min(others, retention.STEP), 0) end
  return own_over > retention.STEP or others > retention.STEP
end

-- Keep a final state within its count, and an age of 0, by one step. True when there may be more to do.
function retention.keep_count(ctx, state)
  local own, count, age = redis.call('ZCARD', retention.key(ctx, state)), retention.bounds(ctx, state)
  local others = state == STATE.COMPLETED and completed.count(ctx) or redis.call('ZCARD', ctx.base .. FINAL_KEY[state])
  if age == 0 then return keep_own(ctx, state, own, others, count) end
  local over = own + others - count
  if over <= 0 then return false end
  return over > retention.forget_oldest(ctx, state, math.min(over, retention.STEP), own)
end

-- After a flush: keep each final state that grew within its count.
local function trim(ctx)
  if ctx.places then completed.drop_holes(ctx) end
  if ctx.completions > 0 then retention.keep_count(ctx, STATE.COMPLETED) end
  for state in pairs(ctx.grown) do
    if state ~= STATE.COMPLETED then retention.keep_count(ctx, state) end
  end
  ctx.grown = {}
end

-- The wait before the next run: base · factor^(runs so far − 1), capped, plus jitter; or the waits of a list, the
-- last of which holds for all later ones. `fraction` is 0 to 1.
local function backoff_ms(ctx, j, fraction)
  local base, factor, cap, jitter, delays = rules.backoff(ctx)
  local own = section(j.body, TAG.DELAYS)
  if own then
    local i = math.min(math.max(j.attempt, 1), (#own - 2) / 8)
    return math.floor(struct.unpack('>I8', own, 8 * i - 5) * (1 + struct.unpack('>I2', own) / 10000 * fraction))
  end
  own = section(j.body, TAG_BACKOFF)
  if own then
    local f, j
    base, f, cap, j = struct.unpack('>I8I4I8I2', own)
    factor, jitter, delays = f / 1000, j / 10000, nil
  end
  if delays then return math.floor(delays[math.min(math.max(j.attempt, 1), #delays)] * (1 + jitter * fraction)) end
  -- The power may be infinite, and nothing times infinity is no number.
  local wait = base > 0 and math.min(base * factor ^ math.max(j.attempt - 1, 0), cap) or 0
  return math.floor(wait * (1 + jitter * fraction))
end

-- A fraction that looks random and is the same on every replica: it comes from the token.
local function jitter_of(token)
  return (token % 1000003 * 0.6180339887498949) % 1
end
