--- The jobs of a call: each is read once, changed as a table, and written once, with its place in the indexes and its event, by `flush`.
--
-- A job's table has the fields of its header, `id` and `body`. Beside them: departed (it was taken out of its index) and dirty (it is to be written).
local FINAL_KEY = { [STATE.COMPLETED] = 'c', [STATE.FAILED] = 'f', [STATE.CANCELLED] = 'x', [STATE.EXPIRED] = 'e' }
local FINAL_ADD = { [STATE.FAILED] = 'ZADD f', [STATE.CANCELLED] = 'ZADD x', [STATE.EXPIRED] = 'ZADD e' }
local FINAL_REMOVE = { [STATE.FAILED] = 'ZREM f', [STATE.CANCELLED] = 'ZREM x', [STATE.EXPIRED] = 'ZREM e' }
local FETCH_MAX = 1000

-- The records of these ids, false for each that has none.
local function records_of(ctx, ids)
  local records, keys = {}, {}
  for first = 1, #ids, FETCH_MAX do
    local last, record_key = math.min(first + FETCH_MAX - 1, #ids), ctx.record_key
    for i = first, last do keys[i - first + 1] = record_key .. ids[i] end
    local found = redis.call('MGET', unpack(keys, 1, last - first + 1))
    for i = first, last do records[i] = found[i - first + 1] end
  end
  return records
end

-- Read those of `ids` that this call has not read yet, with one command.
local function fetch(ctx, ids)
  local missing, known = {}, ctx.records
  for i = 1, #ids do
    if known[ids[i]] == nil then missing[#missing + 1] = ids[i] end
  end
  if #missing == 0 then return end
  local records = records_of(ctx, missing)
  for i = 1, #missing do known[missing[i]] = records[i] end
end

-- A job; nil when there is none. Its table is good until the next flush.
local function find(ctx, id)
  local j = ctx.jobs[id]
  if j ~= nil then return j or nil end
  if ctx.records[id] == nil then fetch(ctx, { id }) end
  j = decode(ctx.records[id])
  if j then j.id = id end
  ctx.jobs[id] = j or false
  return j
end

-- Take a job out of the index that it stands in. Called before any field changes that says where that is; flush puts the job where it belongs then.
local function depart(ctx, j)
  if j.departed then return end
  j.departed = true
  if j.state == STATE.ACTIVE then
    gather(ctx, 'ZREM a', lease_place(j, j.id))
  elseif j.state == STATE.WAITING then
    lines.depart(ctx, j)
  elseif j.state == STATE.DELAYED then
    gather(ctx, 'ZREM d', place(j, j.id))
  else
    if retention.own(j) then
      retention.leave(ctx, j)
    elseif j.state == STATE.COMPLETED then
      completed.cut(ctx, j)
    else
      gather(ctx, FINAL_REMOVE[j.state], j.id)
    end
    if j.state == STATE.FAILED then failures.leave(ctx, j) end
  end
end

-- Give a job its next revision, and let flush write it.
local function touch(ctx, j)
  j.revision = next_number(ctx)
  ctx.changed = true
  if j.dirty then return end
  j.dirty = true
  ctx.dirty[#ctx.dirty + 1] = j
end

local function enter(ctx, j)
  if j.state == STATE.ACTIVE then
    gather(ctx, 'ZADD a', '0', lease_place(j, j.id))
  elseif j.state == STATE.WAITING then
    lines.enter(ctx, j)
  elseif j.state == STATE.DELAYED then
    gather(ctx, 'ZADD d', j.order / 1000, place(j, j.id))
  else
    local own_ms = retention.own(j)
    if own_ms then
      retention.enter(ctx, j, own_ms)
    elseif j.state ~= STATE.COMPLETED then
      -- A completed one was put into its list by move_to_final, in the order of ends and not in that in which the jobs of a call were touched first.
      gather(ctx, FINAL_ADD[j.state], j.revision, j.id)
    end
    if j.state == STATE.FAILED then failures.enter(ctx, j) end
    ctx.grown[j.state] = true
  end
end

-- Whether anybody listens to this queue's events; asked once a call.
local function is_watched(ctx)
  if ctx.loud == nil then
    local answer = redis.call('PUBSUB', 'NUMSUB', ctx.base .. 'E')
    ctx.loud = tonumber(answer[2]) > 0
  end
  return ctx.loud
end

-- Tell watchers how a job is now: `short` is its record without what was enqueued. Whoever calls it has asked is_watched.
local function tell(ctx, id, short)
  short = rules.shown(ctx, short)
  if #short > EVENT_BYTES then
    local name_end = HEADER_SIZE + 1 + string.byte(short, HEADER_SIZE + 1)
    short = string.sub(short, 1, HEADER_SIZE) .. with_section(string.sub(short, HEADER_SIZE + 1, name_end), TAG_TRUNCATED, '\1')
  end
  ctx.events[#ctx.events + 1] = struct.pack('>I2', #id) .. id .. struct.pack('>I4', #short) .. short
end

-- The keys of a job with FLAG_KEPT go with it.
local function unlink_kept(ctx, id)
  gather(ctx, 'UNLINK', ctx.base .. 'h' .. id)
  gather(ctx, 'UNLINK', ctx.base .. 'L' .. id, ctx.base .. 'y' .. id)
end

-- Forget a job that has left its index; its end goes to the ring.
local function erase(ctx, j)
  ring_add(ctx, j.id, number8(j.revision) .. number8(j.token), j.ended, j.state, j.created)
  gather(ctx, 'UNLINK', ctx.record_key .. j.id)
  if has_flag(j, FLAG_APART) then gather(ctx, 'UNLINK', ctx.payload_key .. j.id) end
  if has_flag(j, FLAG_KEPT) then unlink_kept(ctx, j.id) end
  times.forget(ctx, j)
  ctx.jobs[j.id] = false
end

-- Write all that was changed. The tables of jobs that were read before are good no longer.
local function flush(ctx)
  local dirty = ctx.dirty
  for i = 1, #dirty do
    local j = dirty[i]
    local record = encode(j)
    if j.departed and FINAL_KEY[j.state] and retention.own(j) == 0 then
      -- What this call has gathered for its keys must not come after they are gone.
      send_gathered(ctx)
      erase(ctx, j)
    else
      gather(ctx, 'MSET', ctx.record_key .. j.id, record)
      if j.departed then
        enter(ctx, j)
        times.place(ctx, j)
      end
    end
    if is_watched(ctx) then tell(ctx, j.id, j.was and brief(record) .. struct.pack('>BI4', TAG_WAS, #j.was) .. j.was or brief(record)) end
  end
  ctx.dirty, ctx.jobs, ctx.records = {}, {}, {}
  send_gathered(ctx)
  if ctx.touched or ctx.touched_names then limits.settle(ctx) end
end

-- The rank in a sorted set from which (score, member) and what sorts before it are passed: a binary search, since the member itself may be gone.
local function rank_after(key, score, member)
  local low, high = 0, redis.call('ZCARD', key)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local at = redis.call('ZRANGE', key, middle, middle, 'WITHSCORES')
    local s = tonumber(at[2])
    if s < score or (s == score and at[1] <= member) then low = middle + 1 else high = middle end
  end
  return low
end

local function waiting_count(ctx)
  return redis.call('ZCARD', ctx.base .. 'w') + redis.call('ZCARD', ctx.base .. 'o') + ctx.lw
end

-- Write what is left, and tell what happened. The last thing that a function does.
local function close(ctx)
  flush(ctx)
  if ctx.fingerprints then failures.refresh(ctx) end
  if ctx.full then limits.tell_room(ctx) end
  if ctx.fair then limits.save(ctx) end
  if ctx.lw ~= ctx.lw_before then set_meta(ctx, 'lw', ctx.lw) end
  if ctx.holes ~= ctx.holes_before then set_meta(ctx, 'holes', ctx.holes) end
  -- A call that found nothing to do leaves no trace, not even in a queue that does not exist.
  if not ctx.changed and not ctx.wake and not ctx.newer and #ctx.set == 0 and ctx.added == 0 then return end
  set_meta(ctx, 'n', ctx.n)
  if ctx.made > 0 then set_meta(ctx, 'made_total', ctx.made_total + ctx.made) end
  if ctx.completions + ctx.other_ends > 0 then set_meta(ctx, 'ended_total', ctx.ended_total + ctx.completions + ctx.other_ends) end
  if ctx.completions > 0 then set_meta(ctx, 'completed_total', ctx.completed_total + ctx.completions) end
  if ctx.failures > 0 then set_meta(ctx, 'failed_total', ctx.failed_total + ctx.failures) end
  if ctx.changed then
    set_meta(ctx, 'seq', ctx.seq + 1)
    if is_watched(ctx) then
      redis.call('PUBLISH', ctx.base .. 'E', number8(ctx.seq) .. number8(ctx.seq + 1) .. table.concat(ctx.events))
    end
    ctx.seq = ctx.seq + 1
  end
  -- Some broker asked for more than there was: tell it of what is left now.
  if ctx.added > 0 and ctx.hungry and waiting_count(ctx) > 0 then
    ctx.wake = ctx.wake or 'work'
    ctx.hungry = false
    set_meta(ctx, 'hungry', '0')
  end
  if ctx.newer then set_meta(ctx, 'newest', ctx.newest) end
  redis.call('HSET', ctx.meta, unpack(ctx.set))
  if ctx.wake then redis.call('PUBLISH', ctx.base .. 'W', ctx.wake) end
end

-- The section of a payload that is kept apart; empty when there is none.
local function payload_apart(ctx, id)
  local payload = redis.call('GET', ctx.payload_key .. id)
  return payload and struct.pack('>BI4', TAG_PAYLOAD, #payload) .. payload or ''
end
