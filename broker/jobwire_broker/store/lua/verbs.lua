--- What people do to single jobs: cancel, retry, promote, delete.
-- KEYS[1]  the queue's meta hash
-- ARGV     cancel: grace in ms, then ids; the others: ids
-- Returns  per id { OK | WRONG_STATE | NOT_FOUND, state, record without payload after the call ('' when gone) }

local function cancel_active(ctx, id, j, grace_ms)
  if grace_ms == 0 then
    leave_lease(ctx, id, j)
    ctx.wake = 'pulse'
    return end_cancelled(ctx, id, j)
  end
  if has_flag(j, FLAG_CANCEL_REQUESTED) then return end
  set_flag(j, FLAG_CANCEL_REQUESTED)
  redis.call('ZADD', ctx.base .. 't', ctx.clock + grace_ms, 'J' .. number8(j.token) .. id)
  redis.call('HSET', ctx.base .. 'k', id, struct.pack('>I4I8', j.sid, j.token))
  ctx.wake = 'pulse'
  save(ctx, id, j)
end

local function cancel_job(ctx, id, j, grace_ms)
  if j.state == STATE.CANCELLED then return 'OK' end
  if FINAL_KEY[j.state] then return 'WRONG_STATE' end
  if j.state == STATE.ACTIVE then
    cancel_active(ctx, id, j, grace_ms)
  else
    leave_index(ctx, id, j)
    end_cancelled(ctx, id, j)
  end
  return 'OK'
end

local function retry_job(ctx, id, j)
  if j.state == STATE.WAITING or j.state == STATE.DELAYED then return 'OK' end
  if j.state == STATE.ACTIVE or j.state == STATE.COMPLETED then return 'WRONG_STATE' end
  leave_index(ctx, id, j)
  if j.ended == END.NONE then j.ended = END.CANCEL end
  -- The header will say that there is no progress, so its section goes as well: the next lease looks no further than the header.
  local stale = j.progress ~= NO_PROGRESS and { [TAG_PROGRESS] = '' } or nil
  j.attempt, j.losses, j.flags, j.returns, j.progress, j.order = 0, 0, 0, 0, NO_PROGRESS, next_number(ctx)
  move_to_waiting(ctx, id, j, stale)
  return 'OK'
end

local function promote_job(ctx, id, j)
  if j.state == STATE.WAITING then return 'OK' end
  if j.state ~= STATE.DELAYED then return 'WRONG_STATE' end
  leave_index(ctx, id, j)
  j.order = next_number(ctx)
  move_to_waiting(ctx, id, j)
  return 'OK'
end

local function delete_job(ctx, id, j)
  if j.state == STATE.ACTIVE then return 'WRONG_STATE' end
  leave_index(ctx, id, j)
  j.revision, j.state = next_number(ctx), FINAL_KEY[j.state] and j.state or STATE.CANCELLED
  if j.ended == END.NONE then j.ended = END.CANCEL end
  ring_add(ctx, id, j.state, j.ended, j.revision, j.token, j.created)
  local record = redis.call('GET', ctx.base .. 'j' .. id)
  redis.call('UNLINK', ctx.base .. 'j' .. id)
  j.state = STATE_REMOVED
  emit(ctx, id, encode(j) .. string.sub(record, HEADER_SIZE + 1))
  return 'OK'
end

local function each_id(verb, argv_first)
  return function(keys, argv)
    local ctx = open(keys[1])
    local answers = {}
    for i = argv_first, #argv do
      local id = argv[i]
      local j = decode(redis.call('GETRANGE', ctx.base .. 'j' .. id, 0, HEADER_SIZE - 1))
      local word, state = 'NOT_FOUND', 0
      if j then
        word = verb(ctx, id, j, tonumber(argv[1]))
        state = j.state
      else
        state = ring_get(ctx, id) or 0
      end
      flush(ctx)
      trim(ctx)
      local record = redis.call('GET', ctx.base .. 'j' .. id)
      answers[#answers + 1] = { word, state, record and brief(record) or '' }
    end
    close(ctx)
    return answers
  end
end

register('cancel', each_id(cancel_job, 2), { 'allow-oom' })
register('retry', each_id(retry_job, 1), { 'allow-oom' })
register('promote', each_id(promote_job, 1), { 'allow-oom' })
register('delete', each_id(delete_job, 1), { 'allow-oom' })
