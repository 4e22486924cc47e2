--- Make jobs, and lease at once what this broker's workers have room for.
-- KEYS[1]  the queue's meta hash
-- ARGV     item count, 1 when an id comes twice, first and last date in the ids in ms (first 0: one has none), the queue's priority as the broker knows it ('':
--          no item takes it); per item: id, tail (attempts (2) priority (4) body); count of items with a priority of their own; per such item: its number,
--          priority; count of items with something special; per such item: its number, when ('' now, '+<ms>' from now, '<ms>' date), the flags of its record;
--          count of items with an identity or a retention of their own; per such item: its number, identity as in lib/identity.lua ('' for none), signature of
--          an idempotency key (''); lease count; per lease: session, epoch, jobs, bytes
-- Returns  { word per item, or none when all were made, leases as in turn, waiting, seq }; { the policy's text } when the queue's priority is another, and then
--          nothing was done. Words: MADE | EXISTS | FOUND <id> | REPLACED <id> | CONFLICT <length of the id (1)> <id> <signature> | FULL | TOO_LARGE
-- MADE is also the answer to the same id with the same content, and to an id that was removed lately, within two minutes of its making.

-- Where the items begin in ARGV.
local ITEMS_AT = 6
local APART_OVER, TAIL_HEAD = contents.APART_OVER, contents.TAIL_HEAD

-- When an item is due, as a date in ms; 0 for now.
local function due_of(ctx, when)
  local ms = tonumber(when)
  if string.sub(when, 1, 1) == '+' then ms = ctx.now_ms + ms end
  return ms > ctx.now_ms and ms or 0
end

-- Whether an existing record is the same job as the one that was asked for, whose priority is the queue's or its own.
local function is_same(ctx, id, record, tail, is_own)
  -- A debounce of this very call may have changed it since it was read.
  local j = ctx.jobs[id] or decode(record)
  if not j then return false end
  j.id = id
  -- Its payload may be of this very call, and not written yet.
  if has_flag(j, FLAG_APART) then send_gathered(ctx) end
  if contents.is_same(ctx, j, tail) then return true end
  if is_own then return false end
  -- A call that is repeated finds its job also when the queue's priority was changed since the first try.
  for _, was in ipairs(ctx.policy.was or {}) do
    if contents.is_same(ctx, j, string.sub(tail, 1, 2) .. struct.pack('>i4', was) .. string.sub(tail, TAIL_HEAD + 1)) then return true end
  end
  return false
end

-- The record of a job that waits for a time, or has flags.
local function special_record(n, due_ms, flags, tail)
  return struct.pack('>BBBBBI2BI2I8I4I8I8I8', FORMAT, due_ms > 0 and STATE.DELAYED or STATE.WAITING, flags, 0, END.NONE, NO_PROGRESS, 0, 0, n, 0, 0, n,
    due_ms > 0 and due_ms * 1000 or n) .. tail
end

-- Make one job. Answers its record.
local function make(ctx, id, due_ms, priority, tail, flags)
  ctx.n = ctx.n + 1
  local n8, record, payload, j = struct.pack('>I8', ctx.n), nil, nil, nil
  if ctx.policy.expires and flags % FLAG_KEPT < FLAG_TIMED then flags = flags + FLAG_TIMED end
  if due_ms == 0 and #tail <= APART_OVER and flags == 0 then
    record = new_record(n8, tail)
  else
    tail, payload = contents.part(tail)
    record = special_record(ctx.n, due_ms, flags + (payload and FLAG_APART or 0), tail)
    if flags > 0 then
      j = decode(record)
      j.id = id
      times.place(ctx, j)
    end
  end
  gather(ctx, 'MSET', ctx.record_key .. id, record)
  if payload then gather(ctx, 'MSET', ctx.payload_key .. id, payload) end
  if due_ms > 0 then
    gather(ctx, 'ZADD d', due_ms, number8(due_ms * 1000) .. id)
  elseif j then
    lines.enter(ctx, j)
  else
    gather(ctx, 'ZADD w', lines.score(ctx, priority, ctx.n), n8 .. id)
    ctx.added = ctx.added + 1
  end
  ctx.changed, ctx.made = true, ctx.made + 1
  if is_watched(ctx) then tell(ctx, id, brief(record)) end
  return record
end

-- Make the items, if all of them are new: that is found out by the command that writes them. What is plain (now, and not long) is made in this loop as `make`
-- would. False: nothing was written, and what was gathered counts no longer.
local function make_all(ctx, argv, ids, own, dues, flags)
  local special = ctx.policy.expires or ctx.policy.ageing
  local writes, waiting = batch_for(ctx, 'MSETNX', 4 * #ids), batch_for(ctx, 'ZADD w', 2 * #ids)
  -- Where `make` puts its records, too.
  ctx.batches.MSET = writes
  local record_key, watched, priority = ctx.record_key, is_watched(ctx), argv[5]
  for i = 1, #ids do
    local id, tail = ids[i], argv[ITEMS_AT + 2 * i - 1]
    if dues[i] or #tail > APART_OVER or special then
      make(ctx, id, dues[i] or 0, own[i] or priority, tail, flags[i] or 0)
    else
      local n = ctx.n + 1
      local n8 = pack('>I8', n)
      local record, w, a = new_record(n8, tail), writes.n + 2, waiting.n + 2
      writes[w - 1], writes[w], waiting[a - 1], waiting[a] = record_key .. id, record, own[i] or priority, n8 .. id
      writes.n, waiting.n, ctx.n, ctx.added = w, a, n, ctx.added + 1
      if watched then tell(ctx, id, brief(record)) end
    end
  end
  ctx.batches.MSET, ctx.changed, ctx.made = nil, #ids > 0, #ids
  return #ids == 0 or send(writes) == 1
end

-- The records of `ids` that exist, by id, false for each that does not.
local function existing(ctx, ids)
  local records, by_id = records_of(ctx, ids), {}
  for i = 1, #ids do by_id[ids[i]] = records[i] end
  return by_id
end

-- Make a job with an identity or a retention of its own, unless its key is held. Answers a word, and the record when it was made.
local function make_asking(ctx, id, due_ms, priority, tail, ask, flags, refused)
  local asked = ask.identity ~= ''
  -- A queue that is full takes what a debounce puts in the place of an earlier payload; one that has a bound for payloads does not.
  if refused == 'TOO_LARGE' and sub(ask.identity, 1, 1) == 'd' then return refused, nil end
  local word = asked and identity.answer(ctx, id, tail, ask.identity, ask.signature)
  if word then return word, nil end
  if refused then return refused, nil end
  if not asked or identity.ends(ask.identity) or section(sub(tail, TAIL_HEAD + 1), TAG.RETENTION) then flags = flags + FLAG_KEPT end
  local record = make(ctx, id, due_ms, priority, tail, flags)
  if asked then identity.take(ctx, id, ask.identity, ask.signature) end
  return 'MADE', record
end

-- Make the items, some of which may exist already, or may be others by their identity. Answers a word for each.
local function make_missing(ctx, argv, ids, own, dues, flags, asks, known, records, room, large)
  local words = {}
  for i = 1, #ids do
    local id, priority, tail, record = ids[i], own[i] or argv[5], argv[ITEMS_AT + 2 * i - 1], nil
    local refused = large[i] or (room and room < 1 and 'FULL')
    if records[id] then
      words[i] = is_same(ctx, id, records[id], tail, own[i]) and 'MADE' or 'EXISTS'
    elseif known[id] then
      words[i] = known[id]
    elseif asks[i] then
      words[i], record = make_asking(ctx, id, dues[i] or 0, priority, tail, asks[i], flags[i] or 0, refused)
      if string.find(words[i], ' ', 1, true) and sub(words[i], 1, 8) ~= 'CONFLICT' then known[id] = words[i] end
    elseif refused then
      words[i] = refused
    else
      words[i], record = 'MADE', make(ctx, id, dues[i] or 0, priority, tail, flags[i] or 0)
    end
    if record then
      records[id] = record
      room = room and room - 1
    end
  end
  return words
end

-- The word for each item whose payload is larger than the queue takes, by its number. NONE when it takes what every queue does.
local NONE = {}
local function too_large(ctx, argv, count)
  if not ctx.policy.max_payload then return NONE end
  local large = {}
  for i = 1, count do
    local payload = section(sub(argv[ITEMS_AT + 2 * i - 1], TAIL_HEAD + 1), TAG_PAYLOAD)
    if payload and contents.is_too_large(ctx, payload) then large[i] = 'TOO_LARGE' end
  end
  return large
end

-- How many more jobs the queue may hold; nil when it has no maximum depth.
local function room_in(ctx)
  local most = ctx.policy.max_depth
  return most and most - waiting_count(ctx) - redis.call('ZCARD', ctx.base .. 'a') - redis.call('ZCARD', ctx.base .. 'd')
end

-- The items, the priorities that are their own, when they are due, and the flags of their records; by number. And where the rest begins. Raises when one is
-- malformed: before the first write, for a raised error does not roll back.
local function read_items(ctx, argv, count)
  local ids, own, dues, flags, at, tonumber = {}, {}, {}, {}, ITEMS_AT + 2 * count, tonumber
  for i = 1, count do
    ids[i] = argv[ITEMS_AT + 2 * i - 2]
    if #argv[ITEMS_AT + 2 * i - 1] <= TAIL_HEAD then error('item ' .. i .. ' is malformed') end
  end
  local owners = tonumber(argv[at])
  if owners < count and argv[5] == '' then error('the priority of the queue is missing') end
  for i = 1, owners do
    local number, priority = tonumber(argv[at + 2 * i - 1]), argv[at + 2 * i]
    if not tonumber(priority) then error('priority ' .. i .. ' is malformed') end
    own[number] = priority
  end
  at = at + 1 + 2 * owners
  for i = 1, tonumber(argv[at]) do
    local number, when = tonumber(argv[at + 3 * i - 2]), argv[at + 3 * i - 1]
    if when ~= '' and not tonumber(when) then error('due date ' .. i .. ' is malformed') end
    dues[number], flags[number] = when == '' and 0 or due_of(ctx, when), tonumber(argv[at + 3 * i])
  end
  return ids, own, dues, flags, at + 1 + 3 * tonumber(argv[at])
end

-- What the items with an identity or a retention of their own ask for, by their numbers; and where the list ends. Raises as read_items does.
local NO_ASKS = {}
local ASK_SIZE = { k = 10, t = 10, u = 2, d = 18 }
local function read_asks(argv, at)
  local count = tonumber(argv[at])
  if count == 0 then return NO_ASKS, at + 1 end
  local asks = {}
  for i = 1, count do
    local p = at + 3 * i - 2
    local ask = { identity = argv[p + 1], signature = argv[p + 2] }
    if ask.identity ~= '' and #ask.identity < (ASK_SIZE[string.sub(ask.identity, 1, 1)] or math.huge) then error('identity ' .. i .. ' is malformed') end
    asks[tonumber(argv[p])] = ask
  end
  return asks, at + 1 + 3 * count
end

local function enqueue(keys, argv)
  local ctx = open(keys[1])
  if argv[5] ~= '' and tonumber(argv[5]) ~= (ctx.policy.priority or 5) then return { redis.call('HGET', ctx.meta, 'policy') or '' } end
  local ids, own, dues, flags, after = read_items(ctx, argv, tonumber(argv[1]))
  local asks, leases_at = read_asks(argv, after)
  local known, room, words = ring_known(ctx, ids, tonumber(argv[3]), tonumber(argv[4])), room_in(ctx), {}
  local large = too_large(ctx, argv, #ids)
  if argv[2] == '1' or asks ~= NO_ASKS or next(known) or (room and room < #ids) or next(large) or not make_all(ctx, argv, ids, own, dues, flags) then
    -- What was gathered for nothing is forgotten.
    ctx = open(keys[1], nil, ctx.now_us)
    words = make_missing(ctx, argv, ids, own, dues, flags, asks, known, existing(ctx, ids), room, large)
    flush(ctx)
  else
    send_gathered(ctx)
  end
  if ctx.touched then limits.settle(ctx) end
  local leases, opens_in = lease_all(ctx, argv, leases_at)
  close(ctx)
  return { words, leases, waiting_count(ctx), ctx.seq, opens_in }
end

-- What `enqueue` would say of the item, when it need not make anything for that; else STORE_FULL.
local function word_of(ctx, id, is_own, tail, ask, known, record)
  if record then return is_same(ctx, id, record, tail, is_own) and 'MADE' or 'EXISTS' end
  if known then return known end
  return ask and ask.identity ~= '' and identity.answer_without_change(ctx, id, ask.identity, ask.signature) or 'STORE_FULL'
end

-- For a store that is full: takes and gives what `enqueue` does, and makes nothing. Who repeats a call learns of its job, also then.
local function known(keys, argv)
  local ctx = open(keys[1], true)
  if argv[5] ~= '' and tonumber(argv[5]) ~= (ctx.policy.priority or 5) then return { redis.call('HGET', ctx.meta, 'policy') or '' } end
  local ids, own, _, _, after = read_items(ctx, argv, tonumber(argv[1]))
  local asks, removed, records, words = read_asks(argv, after), ring_known(ctx, ids, 0, 0), existing(ctx, ids), {}
  for i = 1, #ids do
    words[i] = word_of(ctx, ids[i], own[i], argv[ITEMS_AT + 2 * i - 1], asks[i], removed[ids[i]], records[ids[i]])
  end
  return { words, {}, waiting_count(ctx), ctx.seq, -1 }
end

register('enqueue', enqueue, {})
register('known', known, { 'no-writes' })
