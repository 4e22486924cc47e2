--- What a worker says of a job that it holds: each item carries the token of its lease, and gets a word for an answer.
local SAME_END = { C = END.COMPLETE, F = END.FAIL, S = END.SNOOZE, R = END.RELEASE }
local NO_HANDLER_RETURNS = 5

-- The answer to a finish for a lease that is over.
local function answer_ended(kind, token, last_token, ended, state)
  if token ~= last_token then return 'STALE_LEASE', 0 end
  if ended == END.CANCEL then return 'CANCELLED', state end
  if ended == SAME_END[kind] then return 'OK', state end
  return 'ALREADY_FINISHED', state
end

-- Bring a job to where a lease that may still speak for it finds it: leased, or put back and not given away since.
local function reclaim(ctx, id, j)
  if j.state == STATE.ACTIVE then
    leave_lease(ctx, id, j)
  else
    flush(ctx)
    leave_index(ctx, id, j)
    j.attempt = j.attempt + 1
  end
end

local function complete(ctx, id, j, result)
  j.losses = 0
  j.ended = END.COMPLETE
  move_to_final(ctx, id, j, STATE.COMPLETED, result ~= '' and { [TAG_RESULT] = result } or nil)
end

local function fail(ctx, id, j, failure, permanent, retry_after_ms)
  j.losses = 0
  if has_flag(j, FLAG_CANCEL_REQUESTED) then return end_cancelled(ctx, id, j, { [TAG_FAILURE] = failure }) end
  j.ended = END.FAIL
  clear_flag(j, FLAG_ALONE)
  if permanent or j.attempt >= j.attempts then return move_to_final(ctx, id, j, STATE.FAILED, { [TAG_FAILURE] = failure }) end
  local wait = retry_after_ms
  if wait < 0 then wait = backoff_ms(redis.call('GET', ctx.base .. 'j' .. id), j.attempt, jitter_of(j.token)) end
  move_to_delayed(ctx, id, j, wait, { [TAG_FAILURE] = failure })
end

local function snooze(ctx, id, j, delay_ms)
  j.losses = 0
  j.attempt = j.attempt - 1
  if has_flag(j, FLAG_CANCEL_REQUESTED) then return end_cancelled(ctx, id, j) end
  j.ended = END.SNOOZE
  clear_flag(j, FLAG_ALONE)
  move_to_delayed(ctx, id, j, delay_ms)
end

local function release(ctx, id, j, reason)
  j.attempt = j.attempt - 1
  if has_flag(j, FLAG_CANCEL_REQUESTED) then return end_cancelled(ctx, id, j) end
  j.ended = END.RELEASE
  if reason == 'NO_HANDLER' then
    j.returns = j.returns + 1
    if j.returns >= NO_HANDLER_RETURNS then return move_to_final(ctx, id, j, STATE.FAILED, { [TAG_FAILURE] = no_handler() }) end
    -- So that the few workers without the handler do not pass it round at full speed.
    return move_to_delayed(ctx, id, j, 200 * j.returns)
  end
  move_to_waiting(ctx, id, j)
end

-- Progress never falls within an attempt. `sections` are the message and data, empty when there are none.
local function progress(ctx, id, j, percent, sections)
  if j.progress ~= NO_PROGRESS and percent < j.progress then percent = j.progress end
  j.progress = percent
  local stale = sections == '' and section(redis.call('GET', ctx.base .. 'j' .. id), TAG_PROGRESS)
  save(ctx, id, j, (sections ~= '' or stale) and { [TAG_PROGRESS] = sections } or nil)
end

local function receive_cancel(ctx, id, j)
  -- A receipt for what was never asked says nothing about a cancel that is asked for later.
  if not has_flag(j, FLAG_CANCEL_REQUESTED) or has_flag(j, FLAG_CANCEL_DELIVERED) then return end
  gather(ctx, 'HDEL k', id)
  set_flag(j, FLAG_CANCEL_DELIVERED)
  save(ctx, id, j)
end

-- The lease of LeaseJobs lasts as its session does.
local function extend(ctx, j, duration_ms)
  local session = redis.call('HGET', ctx.base .. 's', struct.pack('>I4', j.sid))
  if session then redis.call('ZADD', ctx.base .. 't', 'GT', ctx.clock + duration_ms, 'S' .. session) end
end

local function apply(ctx, kind, id, j, a, b, c)
  if kind == 'C' then
    complete(ctx, id, j, a)
  elseif kind == 'F' then
    fail(ctx, id, j, a, b == '1', tonumber(c))
  elseif kind == 'S' then
    snooze(ctx, id, j, tonumber(a))
  else
    release(ctx, id, j, a)
  end
end

-- One item: kind, id, token and up to three arguments. Kinds: C complete, F fail, S snooze, R release, P progress, X cancel receipt, E extend, L log.
local function settle(ctx, kind, id, token, a, b, c)
  local j = decode(redis.call('GETRANGE', ctx.base .. 'j' .. id, 0, HEADER_SIZE - 1))
  if not j then
    local state, ended, _, last_token = ring_get(ctx, id)
    if not state then return 'NOT_FOUND', 0 end
    return answer_ended(kind, token, last_token, ended, state)
  end
  if token < 1 then return 'STALE_LEASE', j.state end
  local open_end = j.state == STATE.ACTIVE or ((j.state == STATE.WAITING or j.state == STATE.DELAYED) and j.ended == END.NONE)
  if j.token ~= token or not open_end then return answer_ended(kind, token, j.token, j.ended, j.state) end
  if SAME_END[kind] then
    reclaim(ctx, id, j)
    apply(ctx, kind, id, j, a, b, c)
    return j.ended == END.CANCEL and 'CANCELLED' or 'OK', j.state
  elseif j.state ~= STATE.ACTIVE then
    return 'STALE_LEASE', j.state
  elseif kind == 'P' then
    progress(ctx, id, j, tonumber(a), b)
  elseif kind == 'X' then
    receive_cancel(ctx, id, j)
  elseif kind == 'E' then
    extend(ctx, j, tonumber(a))
  elseif kind == 'L' and is_watched(ctx) then
    -- Log lines are told to who watches now, as a section of their own behind the unchanged record.
    emit(ctx, id, with_section(brief(redis.call('GET', ctx.base .. 'j' .. id)), TAG_LOG, a))
  end
  return 'OK', j.state
end
