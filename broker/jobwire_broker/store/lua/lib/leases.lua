--- Giving leases to sessions, and taking them back.
local ROW = '>I4I4I8'
local LEASE_BYTES = 1048576
-- How many jobs of a session one call puts back.
local PUT_BACK_MAX = 128
-- How many jobs that have expired a call looks through for others.
local EXPIRED_MAX = 512

-- sid, epoch, solo token of a session; nil when it is not attached.
local function session_row(ctx, session)
  local row = redis.call('HGET', ctx.base .. 's', session)
  if not row then return nil end
  return struct.unpack(ROW, row)
end

local function lex_range(sid)
  return '[' .. struct.pack('>I4', sid), '(' .. struct.pack('>I4', sid + 1)
end

local function held_count(ctx, sid)
  return redis.call('ZLEXCOUNT', ctx.base .. 'a', lex_range(sid))
end

-- The leases of a session: members of index `a`.
local function held_members(ctx, sid, limit)
  local first, last = lex_range(sid)
  return redis.call('ZRANGEBYLEX', ctx.base .. 'a', first, last, 'LIMIT', 0, limit)
end

-- A job waits whose time to start is over: it ends instead of being leased. Whoever leases trims then.
function times.expire_popped(ctx, j)
  j.departed = true
  ctx.jobs[j.id], ctx.expired = j, (ctx.expired or 0) + 1
  move_to_final(ctx, j, STATE.EXPIRED)
end

-- The record of a job with rules of time, as lease_again goes on with it; nil when it has expired.
function times.record(ctx, id, record, token)
  local j = decode(record)
  if not j then return nil end
  j.id = id
  if times.has_expired(ctx, j) then return times.expire_popped(ctx, j) end
  times.begin(ctx, j, token)
  return encode(j)
end

-- The record of a job, leased. A job that has run before, or was lost, or has flags, is leased here.
local function lease_again(ctx, id, record, sid, token)
  local _, state, flags, losses, _, progress, returns, attempt = struct.unpack('>BBBBBI2BI2', record)
  if state ~= STATE.WAITING then return nil, 0 end
  if times.by_policy(ctx) or math.floor(flags / FLAG_TIMED) % 2 == 1 then
    record = times.record(ctx, id, record, token)
    if not record then return nil, 0 end
    flags = byte(record, 3)
  end
  if math.floor(flags / FLAG_LOST) % 2 == 1 then flags = flags - FLAG_LOST end
  local rest = string.sub(record, LEASED_SIZE + 1)
  if progress ~= NO_PROGRESS then
    -- What the last attempt said of its progress ends with the next one.
    rest = string.sub(record, LEASED_SIZE + 1, HEADER_SIZE) .. with_section(string.sub(record, HEADER_SIZE + 1), TAG_PROGRESS, '')
  end
  return struct.pack(LEASED, FORMAT, STATE.ACTIVE, flags, losses, END.NONE, NO_PROGRESS, returns, attempt + 1, token, sid, token) .. rest, flags
end

-- A record with what is kept apart from it.
local function with_apart(ctx, id, record, flags)
  if math.floor(flags / FLAG_KEPT) % 2 == 1 then record = record .. kept.checkpoint(ctx, id) end
  if math.floor(flags / FLAG_APART) % 2 == 1 then record = record .. payload_apart(ctx, id) end
  return record
end

-- Lease jobs that were just taken out of an index; id, token and record of each go to `out`. Answers the size of the records, and how many of the jobs it has
-- dealt with: what is kept apart from records is looked at here first, and with `most` no more of them are taken once that many bytes are passed.
-- A record goes out as it was before: its reader adds one to the attempt. This loop is the hottest of all, so it makes no table for a job.
local function lease_popped(ctx, sid, members, out, most)
  local ids = {}
  for i = 1, #members do ids[i] = sub(members[i], 9) end
  local records, sid4, watched, record_key = records_of(ctx, ids), pack('>I4', sid), is_watched(ctx), ctx.record_key
  local timed = times.by_policy(ctx)
  local writes, leases = batch_for(ctx, 'MSET', 2 * #ids), batch_for(ctx, 'ZADD a', 2 * #ids)
  local w, a, o, n, size, done = writes.n, leases.n, #out, ctx.n, 0, #ids
  for i = 1, #ids do
    local id, record = ids[i], records[i]
    if record then
      n = n + 1
      local token8, flags = pack('>I8', n), 0
      local leased = not timed and first_lease(record, sid4, token8)
      if not leased then
        ctx.n = n
        leased, flags = lease_again(ctx, id, record, sid, n)
        n = ctx.n
      end
      if leased then
        writes[w + 1], writes[w + 2] = record_key .. id, leased
        leases[a + 1], leases[a + 2] = '0', sid4 .. token8 .. id
        if flags >= FLAG_APART then record = with_apart(ctx, id, record, flags) end
        out[o + 1], out[o + 2], out[o + 3] = id, n, record
        w, a, o, size = w + 2, a + 2, o + 3, size + #record
        if watched then tell(ctx, id, brief(leased)) end
        if flags >= FLAG_APART and most and size >= most then
          done = i
          break
        end
      end
    end
  end
  writes.n, leases.n, ctx.n, ctx.changed = w, a, n, true
  return size, done
end

-- Take the first jobs out of an index of what waits. Cheaper than ZPOPMIN, which tells their scores as well.
local function pop(ctx, suffix, count)
  local members = redis.call('ZRANGE', ctx.base .. suffix, 0, count - 1)
  if #members > 0 then redis.call('ZREMRANGEBYRANK', ctx.base .. suffix, 0, #members - 1) end
  return members
end

-- Put those back that come after `last`.
local function put_back_popped(ctx, members, last)
  local ids, args = {}, {}
  for i = last + 1, #members do ids[#ids + 1] = sub(members[i], 9) end
  local records = records_of(ctx, ids)
  for i = 1, #ids do
    local j = decode(records[i])
    if j then args[#args + 1], args[#args + 2] = lines.score(ctx, j.priority, j.order), place(j, ids[i]) end
  end
  if #args > 0 then redis.call('ZADD', ctx.base .. 'w', unpack(args)) end
end

-- Some job waits to be delivered alone. True when this session got it, or is kept free for it, or must leave it its room.
local function lease_alone(ctx, session, sid, row, out)
  local member, j = choosing.alone(ctx, sid)
  if not member then return j == true end
  if held_count(ctx, sid) > 0 then
    local solo = redis.call('HGET', ctx.meta, 'solo')
    if solo and solo ~= '' and solo ~= session and session_row(ctx, solo) then return false end
    redis.call('HSET', ctx.meta, 'solo', session)
    return true
  end
  redis.call('ZREM', ctx.base .. 'o', member)
  redis.call('HSET', ctx.meta, 'solo', '')
  choosing.count_alone(ctx, j)
  if lease_popped(ctx, sid, { member }, out) > 0 then
    redis.call('HSET', ctx.base .. 's', session, string.sub(row, 1, 8) .. number8(ctx.n) .. string.sub(row, 17))
  end
  return true
end

-- How many bytes the payload of a job has.
local function payload_size(ctx, id)
  local j = find(ctx, id)
  if not j then return 0 end
  if has_flag(j, FLAG_APART) then return redis.call('STRLEN', ctx.payload_key .. id) end
  return #(section(j.body, TAG_PAYLOAD) or '')
end

-- Take the first job that waits, if its payload is at most `bytes`. Answers what is left of them; -1 when it is not, or there is none.
local function lease_fitting(ctx, sid, bytes, out)
  local first = redis.call('ZRANGE', ctx.base .. 'w', 0, 0)
  if #first == 0 then return -1 end
  local size = payload_size(ctx, string.sub(first[1], 9))
  if size > bytes then return -1 end
  ctx.spent = ctx.spent + lease_popped(ctx, sid, pop(ctx, 'w', 1), out)
  return bytes - size
end

-- There was less than a session has room for: whoever adds a job is to tell all brokers.
local function ask_for_wake(ctx)
  if ctx.hungry then return end
  ctx.hungry = true
  set_meta(ctx, 'hungry', '1')
end

-- Lease jobs of `w` one by one, as long as their payloads fit.
local function lease_by_size(ctx, sid, count, bytes, out)
  while bytes >= 0 and count > 0 and ctx.spent < LEASE_BYTES do
    bytes = lease_fitting(ctx, sid, bytes, out)
    count = count - 1
  end
  if bytes < 0 and redis.call('EXISTS', ctx.base .. 'w') == 0 then ask_for_wake(ctx) end
end

-- Lease the first jobs of `w`.
local function lease_plain(ctx, sid, count, bytes, out)
  if bytes >= 0 then return lease_by_size(ctx, sid, count, bytes, out) end
  local before = ctx.spent
  while count > 0 and ctx.spent < LEASE_BYTES do
    -- Large records are taken few at a time, so that few must go back when the call has its bytes.
    local room, own = LEASE_BYTES - ctx.spent, ctx.spent - before
    local step = own == 0 and math.min(count, 4) or math.min(count, 128, math.max(1, math.floor(room / (own / (#out / 3 + 1)))))
    local popped = pop(ctx, 'w', step)
    if #popped == 0 then break end
    local expired = ctx.expired or 0
    local size, done = lease_popped(ctx, sid, popped, out, room)
    if done < #popped then put_back_popped(ctx, popped, done) end
    ctx.spent = ctx.spent + size
    -- What has expired takes no room; the pulse finds it as well, so a call need not go through all of it.
    if (ctx.expired or 0) > EXPIRED_MAX then expired = ctx.expired end
    count = count - done + (ctx.expired or 0) - expired
  end
  if count > 0 and ctx.spent < LEASE_BYTES then ask_for_wake(ctx) end
end

-- Lease up to `count` jobs to one session, `bytes` of payload at the most (-1: any), and about LEASE_BYTES in all to all sessions of a call. Answers
-- { word, id, token, record, id … }.
local function lease_to(ctx, session, epoch, count, bytes)
  local row = redis.call('HGET', ctx.base .. 's', session)
  if not row then return { 'NO_SESSION' } end
  local sid, row_epoch, solo_token = struct.unpack(ROW, row)
  if row_epoch ~= epoch then return { 'SESSION_MOVED' } end
  if ctx.paused or solo_token > 0 then return { 'OK' } end
  local out = { 'OK' }
  if redis.call('EXISTS', ctx.base .. 'o') == 1 then
    send_gathered(ctx)
    if lease_alone(ctx, session, sid, row, out) then return out end
  end
  if choosing.is_needed(ctx) then
    local room = choosing.plain_room(ctx, sid, count)
    if room >= 0 then
      lease_plain(ctx, sid, room, bytes, out)
      limits.started(ctx, (#out - 1) / 3)
    else
      choosing.lease(ctx, sid, count, bytes, out)
    end
    return out
  end
  lease_plain(ctx, sid, count, bytes, out)
  return out
end

-- Count the starts of a queue that has a class or a target, and those later than the target. A job that was handed back kept its place, and with it the time that
-- it ran: it started before.
local function count_starts(ctx, answers)
  local target_us, started, late = (ctx.policy.target or math.huge) * 1000, 0, 0
  for _, leases in ipairs(answers) do
    for i = 2, #leases, 3 do
      local last, since = struct.unpack('>I8', leases[i + 2], 23), struct.unpack('>I8', leases[i + 2], 39)
      if since > last then
        started = started + 1
        if leases[i + 1] - since > target_us then late = late + 1 end
      end
    end
  end
  if started > 0 then redis.call('HINCRBY', ctx.meta, 'started', started) end
  if late > 0 then redis.call('HINCRBY', ctx.meta, 'started_late', late) end
end

-- Lease to each of the sessions asked for in ARGV from position `at`: count, then (session, epoch, jobs, bytes) each. Answers the leases, and in how many ms to
-- ask again; -1: nobody knows, or that is not what holds them.
local function lease_all(ctx, argv, at)
  local answers = {}
  local count = tonumber(argv[at])
  ctx.spent = 0
  for i = 1, count do
    local p = at + (i - 1) * 4
    answers[i] = lease_to(ctx, argv[p + 1], tonumber(argv[p + 2]), tonumber(argv[p + 3]), tonumber(argv[p + 4]))
  end
  if ctx.expired then
    flush(ctx)
    trim(ctx)
  end
  if ctx.policy.class or ctx.policy.target then count_starts(ctx, answers) end
  return answers, ctx.prepared and choosing.opens_in(ctx) or -1
end

-- The cancel of a running job, as its record keeps it: asked for, heard of by the worker (both µs), and how it went (1: its handler gave way, 2: it was forced).
local cancels = { FORM = '>I8I8B', DONE = 1, FORCED = 2 }
function cancels.note(ctx, j, went, heard)
  local own = section(j.body, TAG.CANCEL)
  local asked_us, heard_us = ctx.now_us, 0
  if own then asked_us, heard_us = struct.unpack(cancels.FORM, own) end
  j.body = with_section(j.body, TAG.CANCEL, struct.pack(cancels.FORM, asked_us, heard and ctx.now_us or heard_us, went))
end

-- A cancelled job that comes back in any other way than completed has ended. A lease that had its verdict before keeps it. `number` is that of its attempt.
local function end_cancelled(ctx, j, went, number)
  if j.state == STATE.ACTIVE then
    cancels.note(ctx, j, went or cancels.DONE)
    history.add(ctx, j, history.CANCELLED, '', number)
  end
  if j.ended == END.NONE then j.ended = END.CANCEL end
  move_to_final(ctx, j, STATE.CANCELLED)
end

-- Put a leased job back at its place, uncharged: it was not delivered, or is not wanted.
local function put_back(ctx, j)
  leave_lease(ctx, j)
  local number = j.attempt
  j.attempt = math.max(j.attempt - 1, 0)
  if has_flag(j, FLAG_CANCEL_REQUESTED) then return end_cancelled(ctx, j, nil, number) end
  history.add(ctx, j, history.RELEASED, '', number)
  move_to_waiting(ctx, j)
end

-- Take a job back from a session that was lost while it held it (RULES 4). Uncharged, but counted as a loss; the third, alone, ends it.
local function put_back_lost(ctx, j)
  leave_lease(ctx, j)
  local number = j.attempt
  j.attempt = math.max(j.attempt - 1, 0)
  j.losses = math.min(j.losses + 1, 255)
  if has_flag(j, FLAG_CANCEL_REQUESTED) then return end_cancelled(ctx, j, cancels.FORCED, number) end
  history.add(ctx, j, history.LOST, '', number)
  if j.losses >= 3 and has_flag(j, FLAG_ALONE) then
    j.ended = END.FAIL
    j.body = with_section(j.body, TAG_FAILURE, poison())
    return move_to_final(ctx, j, STATE.FAILED)
  end
  set_flag(j, FLAG_LOST)
  if j.losses >= 2 then
    set_flag(j, FLAG_ALONE)
    return move_to_delayed(ctx, j, 1000 * 2 ^ math.min(j.losses - 2, 6))
  end
  move_to_waiting(ctx, j)
end

-- The jobs of a session, by its members of index `a`.
local function jobs_held(ctx, members)
  local ids, jobs = {}, {}
  for i = 1, #members do ids[i] = string.sub(members[i], 13) end
  fetch(ctx, ids)
  for i = 1, #ids do
    local j = find(ctx, ids[i])
    if j and j.state == STATE.ACTIVE then jobs[#jobs + 1] = j end
  end
  return jobs
end

-- Forget a session. Its leases must be gone.
local function drop_session(ctx, session, sid)
  history.keep_label(ctx, sid, sub(redis.call('HGET', ctx.base .. 's', session) or '', 17))
  redis.call('HDEL', ctx.base .. 's', session, struct.pack('>I4', sid), 'r' .. session)
  redis.call('HDEL', ctx.base .. 'M', struct.pack('>I4', sid))
  redis.call('ZREM', ctx.base .. 't', 'S' .. session)
end
