--- Make jobs, and lease at once what this broker's workers have room for.
-- KEYS[1]  the queue's meta hash
-- ARGV     item count, 1 when an id comes twice, first and last date in the ids in ms (first 0: one has none), the queue's priority as the broker knows it ('':
--          no item takes it); per item: id, priority (with '.0' behind it: the queue's), tail (attempts (2) priority (4) body); count of items that wait for a
--          time; per such item: its number, when ('+<ms>' from now, '<ms>' date); lease count; per lease: session, epoch, jobs, bytes
-- Returns  { word (MADE | EXISTS) per item, or none when all were made, leases as in turn, waiting, seq }; { the policy's text } when the queue's priority is
--          another, and then nothing was done
-- MADE is also the answer to the same id with the same content, and to an id that was removed lately, within two minutes of its making.

-- A body longer than this has its payload kept apart, when most of it is payload. A record is copied twice in a life: at this length that costs less than a key.
local APART_OVER = 512

-- Where the items begin in ARGV, and how many bytes of a tail stand before the body.
local ITEMS_AT, TAIL_HEAD = 6, 6

-- When an item is due, as a date in ms; 0 for now.
local function due_of(ctx, when)
  local ms = tonumber(when)
  if string.sub(when, 1, 1) == '+' then ms = ctx.now_ms + ms end
  return ms > ctx.now_ms and ms or 0
end

-- A tail with a long payload taken out of it, and that payload; else the tail, and nil. The payload is its last section.
local function part(tail)
  if #tail <= APART_OVER then return tail, nil end
  local payload = section(string.sub(tail, TAIL_HEAD + 1), TAG_PAYLOAD)
  if not payload or #payload <= APART_OVER / 2 then return tail, nil end
  return string.sub(tail, 1, #tail - #payload - 5), payload
end

-- A tail with this priority in the place of its own, when it is one that the queue had before. A call that is repeated finds its job also when the queue's
-- priority was changed since the first try.
local function as_before(ctx, tail, priority4)
  for _, was in ipairs(ctx.policy.was or {}) do
    if struct.pack('>i4', was) == priority4 then return string.sub(tail, 1, 2) .. priority4 .. string.sub(tail, TAIL_HEAD + 1) end
  end
  return tail
end

-- Whether an existing record is the same job as the one that was asked for.
local function is_same(ctx, id, record, tail, priority)
  local j = decode(record)
  if not j then return false end
  local made = string.sub(record, MADE_SIZE + 1, HEADER_SIZE) .. filtered(j.body, function(tag) return tag < TAG_STATE_FIRST end)
  if has_flag(j, FLAG_APART) then
    -- Maybe of this very call, and not written yet.
    send_gathered(ctx)
    made = made .. payload_apart(ctx, id)
  end
  if made ~= tail and string.sub(priority, -2) == '.0' then tail = as_before(ctx, tail, string.sub(made, 3, TAIL_HEAD)) end
  return made == tail
end

-- The record of a job that waits for a time, or has its payload apart.
local function special_record(n, due_ms, payload, tail)
  return struct.pack('>BBBBBI2BI2I8I4I8I8I8', FORMAT, due_ms > 0 and STATE.DELAYED or STATE.WAITING, payload and FLAG_APART or 0, 0, END.NONE, NO_PROGRESS, 0, 0,
    n, 0, 0, n, due_ms > 0 and due_ms * 1000 or n) .. tail
end

-- Make one job. Answers its record.
local function make(ctx, id, due_ms, priority, tail)
  ctx.n = ctx.n + 1
  local n8, record, payload = struct.pack('>I8', ctx.n), nil, nil
  if due_ms == 0 and #tail <= APART_OVER then
    record = new_record(n8, tail)
  else
    tail, payload = part(tail)
    record = special_record(ctx.n, due_ms, payload, tail)
  end
  gather(ctx, 'MSET', ctx.record_key .. id, record)
  if payload then gather(ctx, 'MSET', ctx.payload_key .. id, payload) end
  if due_ms > 0 then
    gather(ctx, 'ZADD d', due_ms, number8(due_ms * 1000) .. id)
  else
    gather(ctx, 'ZADD w', priority, n8 .. id)
    ctx.added = ctx.added + 1
  end
  ctx.changed = true
  if is_watched(ctx) then tell(ctx, id, brief(record)) end
  return record
end

-- Make the items, all of which are new. What is plain (now, and not long) is made in this loop as `make` would.
local function make_all(ctx, argv, ids, dues)
  local writes, waiting = batch_for(ctx, 'MSET', 4 * #ids), batch_for(ctx, 'ZADD w', 2 * #ids)
  local record_key, watched = ctx.record_key, is_watched(ctx)
  for i = 1, #ids do
    local id, at = ids[i], ITEMS_AT + 3 * i - 2
    local tail = argv[at + 1]
    if dues[i] or #tail > APART_OVER then
      make(ctx, id, dues[i] or 0, argv[at], tail)
    else
      local n = ctx.n + 1
      local n8 = pack('>I8', n)
      local record, w, a = new_record(n8, tail), writes.n + 2, waiting.n + 2
      writes[w - 1], writes[w], waiting[a - 1], waiting[a] = record_key .. id, record, argv[at], n8 .. id
      writes.n, waiting.n, ctx.n, ctx.added = w, a, n, ctx.added + 1
      if watched then tell(ctx, id, brief(record)) end
    end
  end
  ctx.changed = ctx.changed or #ids > 0
end

-- The records of those of `ids` that exist, by id, false for each that does not; nil when it is certain that all are new.
local function existing(ctx, ids, has_twice)
  local keys, record_key = {}, ctx.record_key
  for i = 1, #ids do keys[i] = record_key .. ids[i] end
  if #ids == 0 or (redis.call('EXISTS', unpack(keys)) == 0 and not has_twice) then return nil end
  local records, by_id = records_of(ctx, ids), {}
  for i = 1, #ids do by_id[ids[i]] = records[i] end
  return by_id
end

-- Make the items, some of which may exist already. Answers a word for each.
local function make_missing(ctx, argv, ids, dues, known, records)
  local words = {}
  for i = 1, #ids do
    local id, tail = ids[i], argv[ITEMS_AT + 3 * i - 1]
    if records[id] then
      words[i] = is_same(ctx, id, records[id], tail, argv[ITEMS_AT + 3 * i - 2]) and 'MADE' or 'EXISTS'
    else
      words[i] = 'MADE'
      if not known[id] then records[id] = make(ctx, id, dues[i] or 0, argv[ITEMS_AT + 3 * i - 2], tail) end
    end
  end
  return words
end

-- The items and when they are due. Raises when one is malformed: before the first write, for a raised error does not roll back.
local function read_items(ctx, argv, count)
  local ids, dues, at = {}, {}, ITEMS_AT + 3 * count
  for i = 1, count do
    ids[i] = argv[ITEMS_AT + 3 * i - 3]
    if #argv[ITEMS_AT + 3 * i - 1] <= TAIL_HEAD or not tonumber(argv[ITEMS_AT + 3 * i - 2]) then error('item ' .. i .. ' is malformed') end
  end
  for i = 1, tonumber(argv[at]) do
    local when = argv[at + 2 * i]
    if not tonumber(when) then error('due date ' .. i .. ' is malformed') end
    dues[tonumber(argv[at + 2 * i - 1])] = due_of(ctx, when)
  end
  return ids, dues, at + 1 + 2 * tonumber(argv[at])
end

local function enqueue(keys, argv)
  local ctx = open(keys[1])
  if argv[5] ~= '' and tonumber(argv[5]) ~= (ctx.policy.priority or 5) then return { redis.call('HGET', ctx.meta, 'policy') or '' } end
  local ids, dues, after = read_items(ctx, argv, tonumber(argv[1]))
  local known, records = ring_known(ctx, ids, tonumber(argv[3]), tonumber(argv[4])), existing(ctx, ids, argv[2] == '1')
  local words = {}
  if records or next(known) then
    words = make_missing(ctx, argv, ids, dues, known, records or {})
  else
    make_all(ctx, argv, ids, dues)
  end
  send_gathered(ctx)
  local leases = lease_all(ctx, argv, after)
  close(ctx)
  return { words, leases, waiting_count(ctx), ctx.seq }
end

register('enqueue', enqueue, {})
