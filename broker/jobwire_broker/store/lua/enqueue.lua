--- Make jobs, and lease at once what this broker's workers have room for.
-- KEYS[1]  the queue's meta hash
-- ARGV     item count; per item: id, due ('' now, '+<ms>' from now, '<ms>' date), priority, attempts, body (job name and sections);
--          lease count; per lease: session, epoch, jobs, bytes
-- Returns  { words (MADE | EXISTS) per item, leases as in turn, waiting, seq }
-- MADE is also the answer to the same id with the same content, and to an id that was removed lately, within two minutes of its making.

-- When an item is due: 0 for now, else a date in ms.
local function due_of(ctx, due)
  if due == '' then return 0 end
  local ms = tonumber(due)
  if string.sub(due, 1, 1) == '+' then ms = ctx.now_ms + ms end
  return ms > ctx.now_ms and ms or 0
end

-- Whether an existing record is the same job as the one that was asked for.
local function is_same(record, priority, attempts, body)
  local j = decode(record)
  local last = HEADER_SIZE + #body
  return j.priority == priority and j.attempts == attempts and string.sub(record, HEADER_SIZE + 1, last) == body
    and (#record == last or string.byte(record, last + 1) >= TAG_STATE_FIRST)
end

local function enqueue_one(ctx, id, due, priority, attempts, body)
  local n = next_number(ctx)
  local due_ms = due_of(ctx, due)
  local header = struct.pack(HEADER, FORMAT, due_ms > 0 and STATE.DELAYED or STATE.WAITING, 0, 0, priority, n,
    due_ms > 0 and due_ms * 1000 or n, 0, n, 0, attempts, 0, NO_PROGRESS, END.NONE, 0)
  local key = ctx.base .. 'j' .. id
  if not redis.call('SET', key, header .. body, 'NX') then
    return is_same(redis.call('GET', key), priority, attempts, body) and 'MADE' or 'EXISTS'
  end
  if due_ms > 0 then
    gather(ctx, 'ZADD d', due_ms, number8(due_ms * 1000) .. id)
  else
    gather(ctx, 'ZADD w', priority, number8(n) .. id)
    ctx.added = ctx.added + 1
  end
  emit(ctx, id, header .. body)
  return 'MADE'
end

local function enqueue(keys, argv)
  local ctx = open(keys[1])
  local count = tonumber(argv[1])
  local ids = {}
  for i = 1, count do
    local p = 5 * i - 3
    ids[i] = argv[p]
    -- Raises before the first write: a raised error does not roll back.
    if not (tonumber(argv[p + 2]) and tonumber(argv[p + 3]) and argv[p + 4] ~= '' and (argv[p + 1] == '' or tonumber(argv[p + 1]))) then
      error('item ' .. i .. ' is malformed')
    end
  end
  local known = count > 0 and ring_known(ctx, ids) or {}
  local words = {}
  for i = 1, count do
    local p = 5 * i - 3
    if known[argv[p]] and redis.call('EXISTS', ctx.base .. 'j' .. argv[p]) == 0 then
      words[i] = 'MADE'
    else
      words[i] = enqueue_one(ctx, argv[p], argv[p + 1], tonumber(argv[p + 2]), tonumber(argv[p + 3]), argv[p + 4])
    end
  end
  flush(ctx)
  local leases = lease_all(ctx, argv, 2 + 5 * count)
  close(ctx)
  return { words, leases, waiting_count(ctx), ctx.seq }
end

register('enqueue', enqueue, {})
