--- One call: the queue's meta hash is read once at its start, and commands on many jobs are gathered and sent as one.
--
-- All keys of a queue are `<base><suffix>` with the queue's hash tag in <base>:
--   m   hash    n (last number given), seq (events), clock and last_pulse (ms), paused, hungry, solo, sid, bucket, newest (ms), completed_total, failed_total,
--               policy (JSON, see below), made_total, ended_total and rates (lib/rules.lua), lw (jobs in lines l, n, q), holes (lib/completed.lua), full (units for which a broker found no room under the queue's limit), judged (the policy
--               that blocks were made by), started and started_late (leases.lua), scored and scoring (the ageing by which lines are ordered, lib/lines.lua), and what lib/limits.lua keeps: vt fw vx tat extra
--   w   zset    waiting, score = priority, member = order (8 bytes) .. id
--   o   zset    waiting to be delivered alone, same form
--   d   zset    delayed, score = due date in ms, same member
--   a   zset    leases, score 0, member = sid (4) .. token (8) .. id
--   s   hash    sessions: session (16) -> sid (4) epoch (4) solo token (8) descriptor; sid (4) -> session (16);
--               'r' .. session -> number of its last attach
--   t   zset    deadlines on the pulse clock in ms, member = 'S' .. session | 'J' .. token (8) .. id of a cancel | 'A' .. token (8) .. id of an attempt |
--               'T' .. id of all attempts
--   u   zset    expiries of jobs that were never leased, score = date in ms, member = id
--   T   hash    attempts that were ended at their deadline, whose worker is to be told: token (8) .. id -> sid (4)
--   S   hash    labels of past sessions: sid (4) -> label
--   k   hash    cancels not yet confirmed by the worker: id -> sid (4) .. token (8)
--   c   list    COMPLETED, oldest first: revision (8) token (8) created (8) ended (1) id; without the id when the job was deleted (lib/completed.lua)
--   f x e       zsets of FAILED, CANCELLED, EXPIRED, score = revision at the end, member = id
--   g0 … g4     hashes, the ends of removed jobs by time: id -> revision (8) token (8) ended (1) state (1) young (1)
--   l<group>    zset, waiting jobs of a group, form of w; `l` alone: those of no group that have units or required labels
--   n<name> q<length><labels><group>  zsets, form of w: jobs taken out of their line because their name's limit is used up, or for a worker with these labels
--               (lib/lines.lua)
--   U           zset, score 0: all lines l, n and q by name, and l<group> of each group that has a row
--   q           zset, score 0: the required labels that have a line q
--   Q<labels>   zset: the groups that have a line q with these labels, by their turn (lib/choosing.lua)
--   r y b v     zsets of groups (lib/groups.lua): ready, ready and express, blocked (score = date in ms; \1<job name>: a name with a line n), idle with a memory
--   O           zset with a short life, score = date in ms: waiting jobs for which a session with their labels found no room under a limit (lib/choosing.lua)
--   G           hash: group -> its rules and counters
--   N           hash: job name -> units leased (4) date of its rate (8) the job that it awaits (lib/limits.lua), for names that have a limit
--   M           hash: sid (4) -> the labels of a session that has some
--   j<id>       string, the record
--   p<id>       string, a payload that is kept apart from its record
--   K, K5 … K8  zsets, ended jobs with a retention of their own (retention.lua)
--   i<kind><key>  strings, which job holds a key of identity.lua
--   h<id>       string, attempts before the last one (history.lua)
--   L<id>       list, the job's log (lib/kept.lua)
--   y<id>       string, the job's checkpoint and its number
--   B           zset, bulk runs by when they began; B<number>: hash, one of them (lib/runs.lua)
-- Channels: E (events) and W (wake-ups).
-- The policy of the queue, from field `policy` of the meta hash: JSON, as store/policy.py writes it. Decoded once for each text, for it changes seldom.
local NO_POLICY = { mark = '' }
local policies, policies_count = {}, 0
local function policy_of(text)
  if not text then return NO_POLICY end
  local policy = policies[text]
  if not policy then
    -- Bounded: a library lives as long as its store.
    if policies_count >= 1000 then policies, policies_count = {}, 0 end
    policy = cjson.decode(text)
    -- What the blocks of lines and groups were judged by.
    policy.mark = (policy.limit or policy.names or policy.group_limit) and sub(redis.sha1hex(text), 1, 8) or ''
    policies[text], policies_count = policy, policies_count + 1
  end
  return policy
end

-- What later files add to: lines that jobs wait in, groups, limits, and the choice between them.
local lines, groups, limits, choosing = {}, {}, {}, {}

local RING_SLOTS, RING_SLOT_S = 5, 30
local RING_ADD = { [0] = 'HSET g0', 'HSET g1', 'HSET g2', 'HSET g3', 'HSET g4' }

-- `to_read`: nothing is to be written.
-- `now_us`: the moment of the call, where it was asked for before.
local function open(key, to_read, now_us)
  bind()
  local base = string.sub(key, 1, -2)
  if not now_us then
    local time = redis.call('TIME')
    now_us = time[1] * 1000000 + time[2]
  end
  local meta = redis.call('HMGET', key, 'n', 'seq', 'clock', 'paused', 'hungry', 'bucket', 'newest', 'completed_total', 'failed_total', 'policy',
    'lw', 'judged', 'full', 'made_total', 'ended_total', 'holes')
  local last = tonumber(meta[1]) or 0
  local ctx = {
    base = base, meta = key, record_key = base .. 'j', payload_key = base .. 'p', now_us = now_us, now_ms = math.floor(now_us / 1000),
    n = math.max(last, now_us - 1), seq = tonumber(meta[2]) or 0, clock = tonumber(meta[3]) or 0,
    paused = meta[4] == '1', hungry = meta[5] == '1', bucket = tonumber(meta[6]) or 0, newest = tonumber(meta[7]) or 0,
    policy = policy_of(meta[10]), completed_total = tonumber(meta[8]) or 0, failed_total = tonumber(meta[9]) or 0,
    set = {}, events = {}, batches = {}, records = {}, jobs = {}, histories = {}, dirty = {}, grown = {}, added = 0, completions = 0, failures = 0,
    lw = tonumber(meta[11]) or 0,
    made_total = tonumber(meta[14]) or 0, ended_total = tonumber(meta[15]) or 0, made = 0, other_ends = 0,
  }
  ctx.holes = tonumber(meta[16]) or 0
  ctx.lw_before, ctx.holes_before = ctx.lw, ctx.holes
  if meta[13] and meta[13] ~= '0' then ctx.full = tonumber(meta[13]) end
  if ctx.policy.mark ~= (meta[12] or '') and not to_read then limits.judge(ctx) end
  return ctx
end

-- The next of the queue's growing numbers: microseconds since 1970, made unique (RULES 1).
local function next_number(ctx)
  ctx.n = ctx.n + 1
  return ctx.n
end

-- Remember a field of the meta hash, to be written at the end of the call.
local function set_meta(ctx, field, value)
  ctx.set[#ctx.set + 1] = field
  ctx.set[#ctx.set + 1] = value
end

local function send(batch)
  local n = batch.n
  batch.n = 0
  if batch.key then return redis.call(batch.command, batch.key, unpack(batch, 1, n)) end
  return redis.call(batch.command, unpack(batch, 1, n))
end

-- The batch of a command for many jobs, with room for so many more arguments: `unpack` fails at 8,000 values. 'ZADD a' has the queue's key <base>a,
-- 'MSET' only the keys among its arguments.
local function batch_for(ctx, name, count)
  local batch = ctx.batches[name]
  if not batch then
    local command, suffix = string.match(name, '^(%u+) ?(.*)$')
    batch = { n = 0, command = command, removes = command == 'ZREM' or command == 'HDEL', key = suffix ~= '' and ctx.base .. suffix or nil }
    ctx.batches[name] = batch
    ctx.batches[#ctx.batches + 1] = batch
  elseif batch.n + count > 7000 then
    send(batch)
  end
  return batch
end

-- Gather arguments for one command, for example gather(ctx, 'ZADD a', '0', member).
local function gather(ctx, name, first, second)
  local batch = batch_for(ctx, name, 2)
  local n = batch.n + 1
  batch[n] = first
  if second then
    n = n + 1
    batch[n] = second
  end
  batch.n = n
end

local function send_those(batches, removes)
  for i = 1, #batches do
    if batches[i].n > 0 and batches[i].removes == removes then send(batches[i]) end
  end
end

-- Send what was gathered. What is removed goes first: a job may leave an index and enter it again at another place.
local function send_gathered(ctx)
  send_those(ctx.batches, true)
  send_those(ctx.batches, false)
end
