--- Bind a session to its newest stream, and make both sides agree on what it holds.
-- KEYS[1]  the queue's meta hash
-- ARGV     session, epoch, number (counts the calls of this epoch), session time in ms, descriptor, held count; per held job: id, token; the session's labels, in
--          the form of a job's
-- Returns  { OK, word per held job (HELD | OK | ALREADY_FINISHED | STALE_LEASE | CANCELLED | NOT_FOUND), state per held job,
--            waiting, seq, the policy's text, 1 when the same call is to be made again } | { SESSION_MOVED }
-- A job that the store holds for the session and the list does not name was never delivered: it goes back uncharged, and no loss is counted. A call puts back few.

-- A job that was put back and not given away since is the session's again. If a loss was counted, it was none.
local function adopt(ctx, j, sid)
  depart(ctx, j)
  j.state, j.sid, j.attempt = STATE.ACTIVE, sid, j.attempt + 1
  if has_flag(j, FLAG_LOST) then j.losses = j.losses - 1 end
  clear_flag(j, FLAG_LOST)
  if j.losses < 2 then clear_flag(j, FLAG_ALONE) end
  times.resume(ctx, j)
  touch(ctx, j)
end

-- What to say of a lease that has ended. OK stands for a finish whose ack was lost, which was none when the lease was ended without its worker.
local function ended_word(ended)
  if ended == END.CANCEL then return 'CANCELLED' end
  if ended == END.NONE then return 'STALE_LEASE' end
  return ended == END.TIMEOUT and 'ALREADY_FINISHED' or 'OK'
end

local function check_held(ctx, sid, id, token)
  local j = find(ctx, id)
  if not j then
    local state, ended, _, last_token = ring_get(ctx, id)
    if not state then return 'NOT_FOUND', 0 end
    if token ~= last_token then return 'STALE_LEASE', state end
    return ended_word(ended), state
  end
  if j.token ~= token or token < 1 then return 'STALE_LEASE', j.state end
  if j.state == STATE.ACTIVE and j.sid == sid then return 'HELD', j.state end
  if j.ended == END.NONE and (j.state == STATE.WAITING or j.state == STATE.DELAYED) and limits.readmit(ctx, j) then
    adopt(ctx, j, sid)
    return 'HELD', STATE.ACTIVE
  end
  return j.state == STATE.ACTIVE and 'STALE_LEASE' or ended_word(j.ended), j.state
end

-- The number of the last call of the session's epoch. One with a lower number was late on its way: what it lists is older than what was leased meanwhile.
local function last_attach(ctx, session)
  return tonumber(redis.call('HGET', ctx.base .. 's', 'r' .. session)) or 0
end

-- The leases of a session by the index: members, and tokens by id.
local function leases_of(ctx, sid)
  local members, tokens = held_members(ctx, sid, 100000), {}
  for i = 1, #members do tokens[sub(members[i], 13)] = (struct.unpack('>I8', sub(members[i], 5, 12))) end
  return members, tokens
end

-- Put back what is not listed, PUT_BACK_MAX jobs at the most. Answers 1 when there is more.
local function put_back_undelivered(ctx, members, tokens, listed)
  local unlisted, more = {}, 0
  for i = 1, #members do
    local id = sub(members[i], 13)
    if listed[id] ~= tokens[id] then
      if #unlisted == PUT_BACK_MAX then
        more = 1
        break
      end
      unlisted[#unlisted + 1] = members[i]
    end
  end
  local jobs = jobs_held(ctx, unlisted)
  for i = 1, #jobs do put_back(ctx, jobs[i]) end
  return more
end

local function attach(keys, argv)
  local ctx = open(keys[1])
  local session, epoch, number, session_ms, descriptor = argv[1], tonumber(argv[2]), tonumber(argv[3]), tonumber(argv[4]), argv[5]
  local sid, old_epoch, solo = session_row(ctx, session)
  if sid and (epoch < old_epoch or (epoch == old_epoch and number < last_attach(ctx, session))) then return { 'SESSION_MOVED' } end
  if not sid then sid = redis.call('HINCRBY', ctx.meta, 'sid', 1) end
  redis.call('HSET', ctx.base .. 's', session, struct.pack(ROW, sid, epoch, solo or 0) .. descriptor, struct.pack('>I4', sid), session,
    'r' .. session, number)
  redis.call('ZADD', ctx.base .. 't', ctx.clock + session_ms, 'S' .. session)
  local labels = argv[7 + 2 * tonumber(argv[6])] or ''
  if labels ~= '' then redis.call('HSET', ctx.base .. 'M', struct.pack('>I4', sid), labels) end
  local members, tokens = leases_of(ctx, sid)
  local ids, listed, words, states = {}, {}, {}, {}
  for i = 1, tonumber(argv[6]) do
    local id, token = argv[5 + 2 * i], tonumber(argv[6 + 2 * i])
    listed[id] = token
    -- The most are just held: for those no record is read.
    if tokens[id] ~= token then ids[#ids + 1] = id end
  end
  fetch(ctx, ids)
  for i = 1, tonumber(argv[6]) do
    local id, token = argv[5 + 2 * i], tonumber(argv[6 + 2 * i])
    if tokens[id] == token then
      words[i], states[i] = 'HELD', STATE.ACTIVE
    else
      words[i], states[i] = check_held(ctx, sid, id, token)
    end
  end
  flush(ctx)
  local more = put_back_undelivered(ctx, members, tokens, listed)
  flush(ctx)
  trim(ctx)
  close(ctx)
  return { 'OK', words, states, waiting_count(ctx), ctx.seq, redis.call('HGET', ctx.meta, 'policy') or '', more }
end

register('attach', attach, { 'allow-oom' })
