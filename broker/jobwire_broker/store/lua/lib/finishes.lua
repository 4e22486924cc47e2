--- What a worker says of a job that it holds: each item carries the token of its lease, and gets a word and the job's state for an answer.
local SAME_END = { C = END.COMPLETE, D = END.COMPLETE, F = END.FAIL, S = END.SNOOZE, R = END.RELEASE, G = END.LIMIT }
local NO_HANDLER_RETURNS = 5

-- The answer to a finish for a lease that is over.
local function answer_ended(kind, token, last_token, ended, state)
  if token ~= last_token then return 'STALE_LEASE', 0 end
  if ended == END.CANCEL then return 'CANCELLED', state end
  if ended == SAME_END[kind] then return 'OK', state end
  return 'ALREADY_FINISHED', state
end

-- Bring a job to where a lease that may still speak for it finds it: leased, or put back and not given away since.
local function reclaim(ctx, j)
  if j.state == STATE.ACTIVE then return leave_lease(ctx, j) end
  depart(ctx, j)
  clear_flag(j, FLAG_LOST)
  j.attempt = j.attempt + 1
end

local function complete(ctx, j, result)
  j.losses, j.ended = 0, END.COMPLETE
  if result ~= '' then j.body = with_section(j.body, TAG_RESULT, result) end
  kept.forget_checkpoint(ctx, j)
  move_to_final(ctx, j, STATE.COMPLETED)
end

-- Whether the job, or the policy, names the error as one that no further attempt would mend.
local function is_permanent(ctx, j, failure)
  local own, listed = section(j.body, TAG.PERMANENT), ctx.policy.permanent
  if not own and not listed then return false end
  local kind, at = failures.read(failure)[1], 1
  while own and at <= #own do
    local last = at + byte(own, at)
    if sub(own, at + 1, last) == kind then return true end
    at = last + 1
  end
  for i = 1, listed and #listed or 0 do
    if listed[i] == kind then return true end
  end
  return false
end

-- `timed_out`: the broker ends the attempt, at its deadline.
local function fail(ctx, j, failure, wait_ms, timed_out)
  j.losses = 0
  j.body = with_section(j.body, TAG_FAILURE, failure)
  if has_flag(j, FLAG_CANCEL_REQUESTED) then return end_cancelled(ctx, j, timed_out and cancels.FORCED) end
  history.add(ctx, j, timed_out and history.TIMEOUT or history.FAILED, failure)
  j.ended = timed_out and END.TIMEOUT or END.FAIL
  clear_flag(j, FLAG_ALONE)
  if wait_ms == -2 or j.attempt >= rules.attempts(ctx, j) or is_permanent(ctx, j, failure) then return move_to_final(ctx, j, STATE.FAILED) end
  move_to_delayed(ctx, j, wait_ms < 0 and backoff_ms(ctx, j, jitter_of(j.token)) or wait_ms)
end

local function snooze(ctx, j, delay_ms)
  j.losses = 0
  j.attempt = j.attempt - 1
  if has_flag(j, FLAG_CANCEL_REQUESTED) then return end_cancelled(ctx, j, nil, j.attempt + 1) end
  history.add(ctx, j, history.SNOOZED, '', j.attempt + 1)
  j.ended = END.SNOOZE
  clear_flag(j, FLAG_ALONE)
  move_to_delayed(ctx, j, delay_ms)
end

local function release(ctx, j, reason)
  j.attempt = j.attempt - 1
  if has_flag(j, FLAG_CANCEL_REQUESTED) then return end_cancelled(ctx, j, nil, j.attempt + 1) end
  history.add(ctx, j, history.RELEASED, '', j.attempt + 1)
  j.ended = END.RELEASE
  if reason ~= 'NO_HANDLER' then return move_to_waiting(ctx, j) end
  j.returns = j.returns + 1
  if j.returns >= NO_HANDLER_RETURNS then
    j.body = with_section(j.body, TAG_FAILURE, no_handler())
    return move_to_final(ctx, j, STATE.FAILED)
  end
  -- So that the few workers without the handler do not pass it round at full speed.
  move_to_delayed(ctx, j, 200 * j.returns)
end

-- What its group needs has had enough for now: nothing of the group starts before the time is over. A job of no group is put off alone.
local function limit_group(ctx, j, delay_ms)
  j.losses = 0
  j.attempt = j.attempt - 1
  if has_flag(j, FLAG_CANCEL_REQUESTED) then return end_cancelled(ctx, j, nil, j.attempt + 1) end
  history.add(ctx, j, history.LIMITED, '', j.attempt + 1)
  j.ended = END.LIMIT
  clear_flag(j, FLAG_ALONE)
  local group = lines.rules_of(j).group
  if group == '' then return move_to_delayed(ctx, j, delay_ms) end
  local g = groups.touch(ctx, group)
  g.frozen = math.max(g.frozen, ctx.now_ms + delay_ms)
  move_to_waiting(ctx, j)
end

-- Progress never falls within an attempt. `sections` are the message and data, empty when there are none.
local function progress(ctx, j, percent, sections)
  if j.progress ~= NO_PROGRESS and percent < j.progress then percent = j.progress end
  j.progress = percent
  j.body = with_section(j.body, TAG_PROGRESS, sections)
  touch(ctx, j)
end

local function receive_cancel(ctx, j)
  -- A receipt for what was never asked says nothing about a cancel that is asked for later.
  if not has_flag(j, FLAG_CANCEL_REQUESTED) or has_flag(j, FLAG_CANCEL_DELIVERED) then return end
  gather(ctx, 'HDEL k', j.id)
  set_flag(j, FLAG_CANCEL_DELIVERED)
  cancels.note(ctx, j, 0, true)
  touch(ctx, j)
end

-- The lease of LeaseJobs lasts as its session does.
local function extend(ctx, j, duration_ms)
  local session = redis.call('HGET', ctx.base .. 's', struct.pack('>I4', j.sid))
  if session then redis.call('ZADD', ctx.base .. 't', 'GT', ctx.clock + duration_ms, 'S' .. session) end
end

local function finish(ctx, kind, j, a, b)
  reclaim(ctx, j)
  if kind == 'C' then
    complete(ctx, j, '')
  elseif kind == 'D' then
    complete(ctx, j, a)
  elseif kind == 'F' then
    fail(ctx, j, a, tonumber(b))
  elseif kind == 'S' then
    snooze(ctx, j, tonumber(a))
  elseif kind == 'G' then
    limit_group(ctx, j, tonumber(a))
  else
    release(ctx, j, a)
  end
  return j.ended == END.CANCEL and 'CANCELLED' or 'OK', j.state
end

local function settle_gone(ctx, kind, id, token)
  local state, ended, _, last_token = ring_get(ctx, id)
  if not state then return 'NOT_FOUND', 0 end
  return answer_ended(kind, token, last_token, ended, state)
end

-- One item in full. Answers a word and the job's state.
local function settle_one(ctx, kind, id, token, a, b)
  local j = find(ctx, id)
  if not j then return settle_gone(ctx, kind, id, token) end
  if token < 1 then return 'STALE_LEASE', j.state end
  local open_end = j.state == STATE.ACTIVE or ((j.state == STATE.WAITING or j.state == STATE.DELAYED) and j.ended == END.NONE)
  if j.token ~= token or not open_end then return answer_ended(kind, token, j.token, j.ended, j.state) end
  if SAME_END[kind] then return finish(ctx, kind, j, a, b) end
  if j.state ~= STATE.ACTIVE then return 'STALE_LEASE', j.state end
  if kind == 'P' then
    progress(ctx, j, tonumber(a), b)
  elseif kind == 'X' then
    receive_cancel(ctx, j)
  elseif kind == 'E' then
    extend(ctx, j, tonumber(a))
  elseif kind == 'K' then
    kept.save_checkpoint(ctx, j, tonumber(a), b)
  else
    kept.log(ctx, j, a)
  end
  return 'OK', j.state
end

-- How many arguments follow an item, by its kind: C complete, D complete with a result, F fail (failure, wait in ms: -1 by the backoff, -2 it is permanent),
-- S snooze (ms), G limit its group (ms), R release (reason), P progress (hundredths of a percent, sections), X cancel receipt, E extend (ms), L log lines
-- (sequence (8) · length (2) · jobwire.v1.LogLine each), K checkpoint (sequence, jobwire.v1.Payload).
local ARGUMENTS = { C = 0, D = 1, F = 2, S = 1, G = 1, R = 1, P = 2, X = 0, E = 1, L = 1, K = 2 }
local NUMBER_AT = { F = 2, S = 1, G = 1, P = 1, E = 1, K = 1 }
local KIND_C = 67
local PLAIN_ANSWER = 'OK 5'

-- The ids of the items that begin at argv[2], and where the items end. Raises when one is malformed: before the first write, for a raised error does not
-- roll back.
local function item_ids(argv, count)
  local at, ids = 2, {}
  for i = 1, count do
    local item = argv[at]
    if #item < 10 then error('item ' .. i .. ' is malformed') end
    ids[i] = sub(item, 10)
    if byte(item) ~= KIND_C then
      local kind = sub(item, 1, 1)
      if not ARGUMENTS[kind] or (NUMBER_AT[kind] and not tonumber(argv[at + NUMBER_AT[kind]])) then error('item ' .. i .. ' is malformed') end
      at = at + ARGUMENTS[kind]
    end
    at = at + 1
  end
  return ids, at
end

-- Complete the plain lease of a job that this call has not touched, as settle_one would: without a table, for most items of a busy queue are this.
local function complete_plain(ctx, id, record)
  local n = ctx.n + 1
  local writes, leases, ends = ctx.writes, ctx.leases, ctx.ends
  local w, l, e = writes.n + 2, leases.n + 1, ends.n + 1
  local completed, lease, entry = plain_completion(record, pack('>I8', n), id)
  writes[w - 1], writes[w], leases[l], ends[e] = ctx.record_key .. id, completed, lease, entry
  writes.n, leases.n, ends.n, ctx.n, ctx.completions = w, l, e, n, ctx.completions + 1
  ctx.records[id] = completed
  if is_watched(ctx) then tell(ctx, id, brief(completed)) end
end

-- Settle the items that begin at argv[2]: each kind (1) .. token (8) .. id, and its arguments. Answers '<word> <state>' for each.
local function settle_all(ctx, argv, ids)
  local at, count, answers, records, jobs = 2, #ids, {}, ctx.records, ctx.jobs
  ctx.writes, ctx.leases, ctx.ends = batch_for(ctx, 'MSET', 2 * count), batch_for(ctx, 'ZREM a', count), batch_for(ctx, 'RPUSH c', count)
  for i = 1, count do
    local item, id = argv[at], ids[i]
    local record, token8 = records[id], sub(item, 2, 9)
    if record and byte(item) == KIND_C and jobs[id] == nil and is_plain_lease(record, token8) then
      complete_plain(ctx, id, record)
      answers[i] = PLAIN_ANSWER
    else
      local kind = sub(item, 1, 1)
      local word, state = settle_one(ctx, kind, id, struct.unpack('>I8', token8), argv[at + 1], argv[at + 2])
      answers[i] = word .. ' ' .. state
      at = at + ARGUMENTS[kind]
    end
    at = at + 1
  end
  if ctx.completions > 0 then ctx.changed = true end
  return answers
end
