--- Giving leases to sessions, and taking them back.
local ROW = '>I4I4I8'
local LEASE_BYTES = 1048576

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

-- Lease one job that was just taken out of an index; its id, new token and record go to `out`. Answers the record's size.
-- The record goes out as it was before: its reader adds one to the attempt. This is the hottest path of all, so it makes no table.
local function lease_one(ctx, sid, id, key, record, out)
  if not record then return 0 end
  local format, state, flags, losses, priority, _, order, _, created, attempt, attempts, _, progress, _, returns = struct.unpack(HEADER, record)
  if format ~= FORMAT or state ~= STATE.WAITING then return 0 end
  local token = next_number(ctx)
  local header = struct.pack(HEADER, FORMAT, STATE.ACTIVE, flags, losses, priority, token, order, token, created,
    attempt + 1, attempts, sid, NO_PROGRESS, END.NONE, returns)
  if progress == NO_PROGRESS then
    redis.call('SETRANGE', key, 0, header)
  else
    -- What the last attempt said of its progress ends with the next one.
    redis.call('SET', key, header .. string.sub(with_section(record, TAG_PROGRESS, ''), HEADER_SIZE + 1))
  end
  gather(ctx, 'ZADD a', 0, struct.pack('>I4I8', sid, token) .. id)
  emit(ctx, id)
  local n = #out
  out[n + 1], out[n + 2], out[n + 3] = id, token, record
  return #record
end

-- Lease the jobs that ZPOPMIN took out of an index. Answers the size of their records.
local function lease_popped(ctx, sid, popped, out)
  local ids, keys, size = {}, {}, 0
  for i = 1, #popped, 2 do
    local id = string.sub(popped[i], 9)
    ids[#ids + 1] = id
    keys[#ids] = ctx.base .. 'j' .. id
  end
  local records = redis.call('MGET', unpack(keys))
  for i = 1, #ids do size = size + lease_one(ctx, sid, ids[i], keys[i], records[i], out) end
  return size
end

-- Some job waits to be delivered alone. True when this session got it, or is kept free for it.
local function lease_alone(ctx, session, sid, row, out)
  if held_count(ctx, sid) > 0 then
    local solo = redis.call('HGET', ctx.meta, 'solo')
    if solo and solo ~= '' and solo ~= session and session_row(ctx, solo) then return false end
    redis.call('HSET', ctx.meta, 'solo', session)
    return true
  end
  local popped = redis.call('ZPOPMIN', ctx.base .. 'o')
  redis.call('HSET', ctx.meta, 'solo', '')
  if #popped == 0 then return false end
  if lease_popped(ctx, sid, popped, out) > 0 then
    redis.call('HSET', ctx.base .. 's', session, string.sub(row, 1, 8) .. number8(ctx.n) .. string.sub(row, 17))
  end
  return true
end

-- Take the first job that waits, if its payload is at most `bytes`. Answers what is left of them; -1 when it is not, or there is none.
local function lease_fitting(ctx, sid, bytes, out)
  local first = redis.call('ZRANGE', ctx.base .. 'w', 0, 0)
  if #first == 0 then return -1 end
  local record = redis.call('GET', ctx.base .. 'j' .. string.sub(first[1], 9))
  local payload = record and section(record, TAG_PAYLOAD) or ''
  if #payload > bytes then return -1 end
  lease_popped(ctx, sid, redis.call('ZPOPMIN', ctx.base .. 'w', 1), out)
  return bytes - #payload
end

-- There was less than a session has room for: whoever adds a job is to tell all brokers.
local function ask_for_wake(ctx)
  if ctx.hungry then return end
  ctx.hungry = true
  set_meta(ctx, 'hungry', '1')
end

-- Lease up to `count` jobs to one session, `bytes` of payload in all, or (-1) about LEASE_BYTES. Answers { word, id, token, record, id … }.
local function lease_to(ctx, session, epoch, count, bytes)
  local row = redis.call('HGET', ctx.base .. 's', session)
  if not row then return { 'NO_SESSION' } end
  local sid, row_epoch, solo_token = struct.unpack(ROW, row)
  if row_epoch ~= epoch then return { 'SESSION_MOVED' } end
  if ctx.paused or solo_token > 0 then return { 'OK' } end
  local out = { 'OK' }
  if redis.call('EXISTS', ctx.base .. 'o') == 1 then
    flush(ctx)
    if lease_alone(ctx, session, sid, row, out) then return out end
  end
  while bytes >= 0 and count > 0 do
    bytes = lease_fitting(ctx, sid, bytes, out)
    if bytes < 0 then
      if redis.call('EXISTS', ctx.base .. 'w') == 0 then ask_for_wake(ctx) end
      return out
    end
    count = count - 1
  end
  local spent = 0
  while count > 0 and spent < LEASE_BYTES do
    -- Large records are taken few at a time, so that one call stays near its bound of bytes.
    local step = spent == 0 and math.min(count, 4) or math.min(count, 128, math.max(1, math.floor((LEASE_BYTES - spent) / (spent / (#out / 3 + 1)))))
    local popped = redis.call('ZPOPMIN', ctx.base .. 'w', step)
    if #popped == 0 then break end
    spent = spent + lease_popped(ctx, sid, popped, out)
    count = count - #popped / 2
  end
  if count > 0 and spent < LEASE_BYTES then ask_for_wake(ctx) end
  return out
end

-- Lease to each of the sessions asked for in ARGV from position `at`: count, then (session, epoch, jobs, bytes) each.
local function lease_all(ctx, argv, at)
  local answers = {}
  for i = 1, tonumber(argv[at]) do
    local p = at + (i - 1) * 4
    answers[i] = lease_to(ctx, argv[p + 1], tonumber(argv[p + 2]), tonumber(argv[p + 3]), tonumber(argv[p + 4]))
  end
  return answers
end

-- A cancelled job that comes back in any other way than completed has ended. A lease that had its verdict before keeps it.
local function end_cancelled(ctx, id, j, sections)
  if j.ended == END.NONE then j.ended = END.CANCEL end
  move_to_final(ctx, id, j, STATE.CANCELLED, sections)
end

-- Put a leased job back at its place, uncharged: it was not delivered, or is not wanted.
local function put_back(ctx, id, j)
  leave_lease(ctx, id, j)
  j.attempt = math.max(j.attempt - 1, 0)
  if has_flag(j, FLAG_CANCEL_REQUESTED) then return end_cancelled(ctx, id, j) end
  move_to_waiting(ctx, id, j)
end

-- Take a job back from a session that was lost while it held it (RULES 4). Uncharged, but counted as a loss; the third, alone, ends it.
local function put_back_lost(ctx, id, j)
  leave_lease(ctx, id, j)
  j.attempt = math.max(j.attempt - 1, 0)
  j.losses = math.min(j.losses + 1, 255)
  if has_flag(j, FLAG_CANCEL_REQUESTED) then return end_cancelled(ctx, id, j) end
  if j.losses >= 3 and has_flag(j, FLAG_ALONE) then
    j.ended = END.FAIL
    return move_to_final(ctx, id, j, STATE.FAILED, { [TAG_FAILURE] = poison() })
  end
  if j.losses >= 2 then
    set_flag(j, FLAG_ALONE)
    return move_to_delayed(ctx, id, j, 1000 * 2 ^ math.min(j.losses - 2, 6))
  end
  move_to_waiting(ctx, id, j)
end

-- Forget a session. Its leases must be gone.
local function drop_session(ctx, session, sid)
  redis.call('HDEL', ctx.base .. 's', session, struct.pack('>I4', sid))
  redis.call('ZREM', ctx.base .. 't', 'S' .. session)
end
