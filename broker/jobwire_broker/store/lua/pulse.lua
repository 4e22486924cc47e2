--- Renew sessions, take back what is past its deadline, let come due what is due, forget what is too old (RULES 2).
-- KEYS[1]  the queue's meta hash
-- ARGV     session time in ms; session count; per session: session, epoch, age (ms since it last sent a frame; -1: nothing since the last pulse);
--          the version of the policy that the broker knows
-- Returns  { word per session (OK | NO_SESSION | SESSION_MOVED), held per session, cancels (flat: session index, id, token, grace left in ms),
--            seq, waiting, active, delayed, ms to the next due date or expiry (-1: none), ms on the clock to the next deadline (-1: none), whether more is past
--            due, attempts that timed out (flat: session index, id, token), the policy's text when its version is another }
-- The clock grows by what passed since the last pulse, at most 2 s or a fifth of the session time: it stands still while nobody pulses, and no single pulse
-- after an outage can use a session up.
local LIMIT = 128

local function tick(ctx, session_ms)
  local last = tonumber(redis.call('HGET', ctx.meta, 'last_pulse')) or ctx.now_ms
  ctx.clock = ctx.clock + math.max(0, math.min(ctx.now_ms - last, 2000, math.floor(session_ms / 5)))
  ctx.clock_now = ctx.clock
  set_meta(ctx, 'clock', ctx.clock)
  set_meta(ctx, 'last_pulse', ctx.now_ms)
end

local function renew(ctx, session_ms, argv, words, held, sids)
  for i = 1, tonumber(argv[2]) do
    local session, epoch, age = argv[3 * i], tonumber(argv[3 * i + 1]), tonumber(argv[3 * i + 2])
    local sid, row_epoch = session_row(ctx, session)
    words[i], held[i] = 'OK', 0
    if not sid then
      words[i] = 'NO_SESSION'
    elseif row_epoch ~= epoch then
      words[i] = 'SESSION_MOVED'
    else
      if age >= 0 then gather(ctx, 'ZADD t', ctx.clock + session_ms - age, 'S' .. session) end
      held[i] = held_count(ctx, sid)
      sids[struct.pack('>I4', sid)] = i
    end
  end
  send_gathered(ctx)
end

local function reap_session(ctx, session)
  local sid = session_row(ctx, session)
  if not sid then return redis.call('ZREM', ctx.base .. 't', 'S' .. session) end
  local members = held_members(ctx, sid, LIMIT)
  local jobs = jobs_held(ctx, members)
  for i = 1, #jobs do put_back_lost(ctx, jobs[i]) end
  ctx.changed = true
  if #members < LIMIT then drop_session(ctx, session, sid) end
end

local function force_cancel(ctx, token, id)
  local j = find(ctx, id)
  redis.call('ZREM', ctx.base .. 't', 'J' .. number8(token) .. id)
  if not j or j.state ~= STATE.ACTIVE or j.token ~= token then return end
  leave_lease(ctx, j)
  end_cancelled(ctx, j, cancels.FORCED)
end

-- Take a lease away from a worker that still holds it: it is told by its own broker's pulse, which is this one or comes at once.
local function take_away(ctx, j, sids)
  times.untold(ctx, j)
  if not sids[struct.pack('>I4', j.sid)] then ctx.wake = 'pulse' end
  leave_lease(ctx, j)
end

local function time_out(ctx, token, id, sids)
  local j = find(ctx, id)
  redis.call('ZREM', ctx.base .. 't', 'A' .. number8(token) .. id)
  if not j or j.state ~= STATE.ACTIVE or j.token ~= token then return end
  take_away(ctx, j, sids)
  fail(ctx, j, timed_out('TIMEOUT'), -1, true)
end

local function time_out_all(ctx, id, sids)
  local j = find(ctx, id)
  redis.call('ZREM', ctx.base .. 't', 'T' .. id)
  if not j or j.state >= STATE.COMPLETED then return end
  if j.state == STATE.ACTIVE then
    take_away(ctx, j, sids)
    fail(ctx, j, timed_out('TOTAL_TIMEOUT'), -2, true)
  else
    depart(ctx, j)
    j.ended = END.TIMEOUT
    j.body = with_section(j.body, TAG_FAILURE, timed_out('TOTAL_TIMEOUT'))
    clear_flag(j, FLAG_ALONE)
    move_to_final(ctx, j, STATE.FAILED)
  end
end

local function reap(ctx, sids)
  local due = redis.call('ZRANGEBYSCORE', ctx.base .. 't', '-inf', ctx.clock, 'LIMIT', 0, LIMIT)
  for i = 1, #due do
    local kind = string.sub(due[i], 1, 1)
    if kind == 'S' then
      reap_session(ctx, string.sub(due[i], 2))
    elseif kind == 'T' then
      time_out_all(ctx, string.sub(due[i], 2), sids)
    else
      local token, id = struct.unpack('>I8', string.sub(due[i], 2, 9)), string.sub(due[i], 10)
      if kind == 'J' then force_cancel(ctx, token, id) else time_out(ctx, token, id, sids) end
    end
    flush(ctx)
  end
  return #due == LIMIT
end

local function expire_due(ctx)
  local due = redis.call('ZRANGEBYSCORE', ctx.base .. 'u', '-inf', ctx.now_ms, 'LIMIT', 0, LIMIT)
  fetch(ctx, due)
  for i = 1, #due do
    local j = find(ctx, due[i])
    local date = j and j.state < STATE.ACTIVE and times.expiry(ctx, j)
    if not date then
      gather(ctx, 'ZREM u', due[i])
    elseif date > ctx.now_ms then
      -- The policy gives it more time than it did.
      gather(ctx, 'ZADD u', date, due[i])
    else
      set_flag(j, FLAG_TIMED)
      move_to_final(ctx, j, STATE.EXPIRED)
    end
  end
  flush(ctx)
  return #due == LIMIT
end

local function promote_due(ctx)
  local due = redis.call('ZRANGEBYSCORE', ctx.base .. 'd', '-inf', ctx.now_ms, 'LIMIT', 0, LIMIT)
  local ids = {}
  for i = 1, #due do ids[i] = string.sub(due[i], 9) end
  fetch(ctx, ids)
  for i = 1, #due do
    local j = find(ctx, ids[i])
    if j and j.state == STATE.DELAYED then
      move_to_waiting(ctx, j)
    else
      gather(ctx, 'ZREM d', due[i])
    end
  end
  flush(ctx)
  return #due == LIMIT
end

-- How many of the oldest COMPLETED jobs are past their age, at most LIMIT.
local function old_completed(ctx, cutoff)
  local key = ctx.base .. 'c'
  local function is_old(entry) return entry and struct.unpack('>I8', entry) <= cutoff end
  -- One look at the oldest, which most often is young.
  if not is_old(redis.call('LINDEX', key, 0)) then return 0 end
  local entries = redis.call('LRANGE', key, 0, LIMIT - 1)
  local count = 0
  while is_old(entries[count + 1]) do count = count + 1 end
  return count
end

-- Forget jobs of a state that are past the age of the queue's policy. True when there may be more.
local function forget_old(ctx, state)
  local _, age_ms = retention.bounds(ctx, state)
  local cutoff = ctx.now_us - age_ms * 1000
  if state == STATE.COMPLETED then
    local count = old_completed(ctx, cutoff)
    if count > 0 then pop_completed(ctx, count) end
    return count == LIMIT
  end
  local ids = redis.call('ZRANGEBYSCORE', ctx.base .. FINAL_KEY[state], '-inf', cutoff, 'LIMIT', 0, LIMIT)
  forget(ctx, state, ids)
  return #ids == LIMIT
end

-- Forget jobs that are past the time that they gave themselves. True when there may be more.
local function forget_expired(ctx)
  local members, ids = redis.call('ZRANGEBYSCORE', ctx.base .. 'K', '-inf', ctx.now_ms, 'LIMIT', 0, LIMIT), {}
  for i = 1, #members do ids[i] = string.sub(members[i], 2) end
  retention.forget_own(ctx, ids)
  return #ids == LIMIT
end

-- Forget all that is kept no longer, by one step: what grew too old, and what a policy that was changed has no room for. True when there may be more.
local function forget_all(ctx)
  flush(ctx)
  local more = forget_expired(ctx)
  for state = STATE.COMPLETED, STATE.EXPIRED do
    flush(ctx)
    more = forget_old(ctx, state) or more
    flush(ctx)
    more = retention.keep_count(ctx, state) or more
  end
  flush(ctx)
  return more
end

-- Cancels whose receipt is still missing, of the sessions that asked.
local function undelivered_cancels(ctx, sids)
  local out = {}
  local pending = redis.call('HGETALL', ctx.base .. 'k')
  for i = 1, #pending, 2 do
    local at = sids[string.sub(pending[i + 1], 1, 4)]
    if at and #out < 4 * LIMIT then
      local token = string.sub(pending[i + 1], 5)
      local deadline = tonumber(redis.call('ZSCORE', ctx.base .. 't', 'J' .. token .. pending[i])) or ctx.clock
      local p = #out
      out[p + 1], out[p + 2], out[p + 3], out[p + 4] = at, pending[i], struct.unpack('>I8', token), math.max(0, deadline - ctx.clock)
    end
  end
  return out
end

-- Attempts that were ended at their deadline, of the sessions that asked; each is told once, and what gets lost the comparison of what is held finds.
local function untold_timeouts(ctx, sids)
  local key, out, told = ctx.base .. 'T', {}, {}
  local pending = redis.call('HGETALL', key)
  for i = 1, #pending, 2 do
    local at = sids[pending[i + 1]]
    if #told < LIMIT and (at or redis.call('HEXISTS', ctx.base .. 's', pending[i + 1]) == 0) then
      told[#told + 1] = pending[i]
      local p = #out
      if at then out[p + 1], out[p + 2], out[p + 3] = at, sub(pending[i], 9), struct.unpack('>I8', pending[i]) end
    end
  end
  if #told > 0 then redis.call('HDEL', key, unpack(told)) end
  return out
end

local function next_of(ctx, suffix, from)
  local first = redis.call('ZRANGE', ctx.base .. suffix, 0, 0, 'WITHSCORES')
  if #first == 0 then return -1 end
  return math.max(0, math.ceil(tonumber(first[2]) - from))
end

-- The text of the policy when the broker knows another one; else false.
local function policy_news(ctx, known)
  if not known or tonumber(known) == (ctx.policy.v or 0) then return false end
  return redis.call('HGET', ctx.meta, 'policy') or ''
end

local function pulse(keys, argv)
  local ctx = open(keys[1])
  local words, held, sids = {}, {}, {}
  tick(ctx, tonumber(argv[1]))
  ring_turn(ctx)
  renew(ctx, tonumber(argv[1]), argv, words, held, sids)
  local more_late = reap(ctx, sids)
  local more_expired = expire_due(ctx)
  local more_due = promote_due(ctx) or more_expired
  more_due = groups.open_due(ctx) or more_due
  groups.forget_idle(ctx)
  more_due = lines.rescore(ctx) or more_due
  trim(ctx)
  local more_kept = forget_all(ctx)
  rules.note_rates(ctx)
  local cancels, timeouts = undelivered_cancels(ctx, sids), untold_timeouts(ctx, sids)
  local due, expiry = next_of(ctx, 'd', ctx.now_ms), next_of(ctx, 'u', ctx.now_ms)
  if due < 0 or (expiry >= 0 and expiry < due) then due = expiry end
  close(ctx)
  return { words, held, cancels, ctx.seq, waiting_count(ctx), redis.call('ZCARD', ctx.base .. 'a'), redis.call('ZCARD', ctx.base .. 'd'),
    due, next_of(ctx, 't', ctx.clock), (more_late or more_due or more_kept) and 1 or 0, timeouts,
    policy_news(ctx, argv[3 + 3 * tonumber(argv[2])]) }
end

register('pulse', pulse, { 'allow-oom' })
