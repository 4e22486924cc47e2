--- What people do to single jobs: cancel, retry, redrive, promote, update, delete, resolve.
-- KEYS[1]  the queue's meta hash
-- ARGV     cancel: grace in ms, then ids; resolve: note, then ids; redrive: payload as a section, then ids; update: id, then pairs (update_job); the others: ids
-- Returns  per id { OK | WRONG_STATE | NOT_FOUND | KEY_HELD <id> | TOO_LARGE, state, record without payload after the call ('' when gone) }
-- KEY_HELD: another job holds the unique key of the job that is to be retried. TOO_LARGE: the queue takes no payload of the size of the one that was brought.

local function cancel_active(ctx, j, grace_ms)
  if grace_ms == 0 then
    leave_lease(ctx, j)
    ctx.wake = 'pulse'
    return end_cancelled(ctx, j, cancels.FORCED)
  end
  if has_flag(j, FLAG_CANCEL_REQUESTED) then return end
  set_flag(j, FLAG_CANCEL_REQUESTED)
  cancels.note(ctx, j, 0)
  redis.call('ZADD', ctx.base .. 't', times.clock(ctx) + grace_ms, 'J' .. number8(j.token) .. j.id)
  redis.call('HSET', ctx.base .. 'k', j.id, struct.pack('>I4I8', j.sid, j.token))
  ctx.wake = 'pulse'
  touch(ctx, j)
end

local function cancel_job(ctx, j, grace)
  local grace_ms = tonumber(grace)
  if j.state == STATE.CANCELLED then return 'OK' end
  if FINAL_KEY[j.state] then return 'WRONG_STATE' end
  if j.state == STATE.ACTIVE then
    cancel_active(ctx, j, grace_ms)
  else
    depart(ctx, j)
    end_cancelled(ctx, j)
  end
  return 'OK'
end

local function retry_job(ctx, j)
  if j.state == STATE.WAITING or j.state == STATE.DELAYED then return 'OK' end
  if j.state == STATE.ACTIVE or j.state == STATE.COMPLETED then return 'WRONG_STATE' end
  local holder = has_flag(j, FLAG_KEPT) and identity.retake(ctx, j)
  if holder then return 'KEY_HELD ' .. holder end
  depart(ctx, j)
  if j.ended == END.NONE then j.ended = END.CANCEL end
  -- The header will say that there is no progress, so its section goes as well: the next lease looks no further than the header.
  if j.progress ~= NO_PROGRESS then j.body = with_section(j.body, TAG_PROGRESS, '') end
  j.attempt, j.losses, j.returns, j.progress, j.order = 0, 0, 0, NO_PROGRESS, next_number(ctx)
  j.body = with_section(with_section(j.body, TAG.CANCEL, ''), TAG.FIRST_START, '')
  for _, flag in ipairs({ FLAG_CANCEL_REQUESTED, FLAG_CANCEL_DELIVERED, FLAG_ALONE, FLAG_LOST }) do clear_flag(j, flag) end
  failures.clear(j)
  move_to_waiting(ctx, j)
  return 'OK'
end

-- Change what a waiting job carries. What a worker that was lost with it says of the job that it had, is said of another now.
local function edit(ctx, j, changes, priority)
  depart(ctx, j)
  if changes[TAG_PAYLOAD] and j.token > 0 and j.ended == END.NONE then j.ended = END.CANCEL end
  contents.set(ctx, j, contents.changed(contents.tail(ctx, j), changes, priority))
  touch(ctx, j)
end

-- Whether the queue refuses a payload that comes as a section, behind tag and length.
local SECTION_HEAD = 5
local function is_refused(ctx, payload)
  return payload ~= nil and contents.is_too_large(ctx, sub(payload, SECTION_HEAD + 1))
end

-- Retry with another payload.
local function redrive_job(ctx, j, payload)
  if is_refused(ctx, payload) then return 'TOO_LARGE' end
  local word = retry_job(ctx, j)
  if word ~= 'OK' then return word end
  edit(ctx, j, { [TAG_PAYLOAD] = payload })
  return 'OK'
end

-- Changes of a job, from ARGV: pairs of what and to what. due: a date in ms, 0 for now; payload and labels: a section, '' for none.
local function update_job(ctx, j, argv)
  if j.state ~= STATE.WAITING and j.state ~= STATE.DELAYED then return 'WRONG_STATE' end
  local given, changes = {}, {}
  for i = 2, #argv, 2 do given[argv[i]] = argv[i + 1] end
  if is_refused(ctx, given.payload) then return 'TOO_LARGE' end
  changes[TAG_PAYLOAD], changes[TAG.LABELS] = given.payload, given.labels
  edit(ctx, j, changes, tonumber(given.priority))
  local due_ms = tonumber(given.due)
  if due_ms and due_ms > ctx.now_ms then
    j.state, j.order = STATE.DELAYED, due_ms * 1000
  elseif due_ms and j.state == STATE.DELAYED then
    j.state, j.order = STATE.WAITING, next_number(ctx)
  end
  return 'OK'
end

local function promote_job(ctx, j)
  if j.state == STATE.WAITING then return 'OK' end
  if j.state ~= STATE.DELAYED then return 'WRONG_STATE' end
  depart(ctx, j)
  j.order = next_number(ctx)
  move_to_waiting(ctx, j)
  return 'OK'
end

local function delete_job(ctx, j)
  if j.state == STATE.ACTIVE then return 'WRONG_STATE' end
  remove(ctx, j)
  return 'OK'
end

local function resolve_job(ctx, j, note)
  if j.state ~= STATE.FAILED then return 'WRONG_STATE' end
  failures.resolve(ctx, j, note)
  touch(ctx, j)
  return 'OK'
end

local VERBS = { cancel = cancel_job, retry = retry_job, promote = promote_job, delete = delete_job, resolve = resolve_job }

local function answer_one(ctx, verb, id, argument)
  local j = find(ctx, id)
  if not j then return { 'NOT_FOUND', ring_get(ctx, id) or 0, '' } end
  local word = verb(ctx, j, argument)
  local record = j.state ~= STATE_REMOVED and rules.shown(ctx, brief(encode(j))) or ''
  flush(ctx)
  trim(ctx)
  return { word, j.state, record }
end

local function each_id(verb, argv_first)
  return function(keys, argv)
    local ctx = open(keys[1])
    local answers = {}
    for i = argv_first, #argv do answers[#answers + 1] = answer_one(ctx, verb, argv[i], argv[1]) end
    close(ctx)
    return answers
  end
end

local function update(keys, argv)
  local ctx = open(keys[1])
  local answer = answer_one(ctx, update_job, argv[1], argv)
  close(ctx)
  return { answer }
end

-- Whether a job is as it was when the last number given was `newest`. What a worker says of its progress is no change.
local function is_as_it_was(j, newest)
  if j.state == STATE.ACTIVE then return j.token <= newest and not has_flag(j, FLAG_CANCEL_REQUESTED) end
  return j.revision <= newest
end

-- A step of a bulk verb. ARGV: verb, its argument ('' when it has none), the last number given when the dry run began, number of the run (8 bytes), how many
-- jobs it has skipped so far, ids: none when it only says that it goes on. Returns { OK | STOPPED | NOT_FOUND, how many the run has acted on in all its steps, how
-- many of these ids it has not, who stopped it }. One that was stopped acts on nothing any more: so a stop holds from its answer on, whichever broker runs it.
local function bulk(keys, argv)
  local ctx = open(keys[1])
  local verb, newest, done = VERBS[argv[1]], tonumber(argv[3]), 0
  local run = runs.find(ctx.base, argv[4])
  if not run then return { 'NOT_FOUND', 0, 0, '' } end
  if run.ending == 'STOPPED' then return { 'STOPPED', run.done, 0, run.by } end
  fetch(ctx, { unpack(argv, 6) })
  for i = 6, #argv do
    local j = find(ctx, argv[i])
    if j and not j.dirty and is_as_it_was(j, newest) and verb(ctx, j, argv[2]) == 'OK' then done = done + 1 end
  end
  flush(ctx)
  trim(ctx)
  close(ctx)
  local skipped = #argv - 5 - done
  run.ending, run.ended, run.done, run.skipped = '', 0, run.done + done, tonumber(argv[5]) + skipped
  runs.write(ctx.base, run, ctx.now_ms)
  return { 'OK', run.done, skipped, '' }
end

-- Returns the last number given: what has a greater one has changed since.
local function moment(keys)
  local time = redis.call('TIME')
  return string.format('%.0f', math.max(tonumber(redis.call('HGET', keys[1], 'n')) or 0, time[1] * 1000000 + time[2] - 1))
end

register('bulk', bulk, { 'allow-oom' })
register('moment', moment, { 'no-writes' })
register('cancel', each_id(cancel_job, 2), { 'allow-oom' })
register('retry', each_id(retry_job, 1), { 'allow-oom' })
register('promote', each_id(promote_job, 1), { 'allow-oom' })
register('delete', each_id(delete_job, 1), { 'allow-oom' })
register('resolve', each_id(resolve_job, 2), { 'allow-oom' })
-- What may make a job larger is refused by a full store.
register('redrive', each_id(redrive_job, 2), {})
register('update', update, {})
