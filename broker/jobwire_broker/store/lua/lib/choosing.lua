--- Which jobs a session gets, in a queue with limits, or with lines beside `w`.
--
-- The choice: express groups first, then the group whose turn it is, then its first job. Before it is taken it is judged: a group that may not run now goes to
-- `b`, a job whose name may not run, or whose labels the session lacks, is parked, and the choice is made again. So no line is ever searched, and each step of a
-- call takes a job or moves something out of the way for good.
-- A job with required labels that a session came for and that only a limit held is owed room (`O`): for a while sessions without the labels leave it where it
-- is, and start nothing behind it. Each time that such a session asks and has room left, the while begins anew; and brokers ask once a second for those that are
-- idle. `O` is a sorted set: labels (behind their length) · id, by the end of the while; all of it goes with the last one.
local STEPS_MAX = 384
local ALONE_MAX = 16
local OWED_MS, OWED_MAX = 3000, 64
-- Of how many groups a call brings back jobs with the same labels. The score of one that goes before all others is lower by EXPRESS_FIRST.
local BROUGHT_MAX, EXPRESS_FIRST = 8, 1e12
-- What becomes of a choice that is not taken: it is out of the way, and the next may be made; or nothing may be taken.
local MOVED, STOP = 1, 2

-- Labels ---------------------------------------------------------------------------------------------------------------------------------------------------

local function pairs_of(packed)
  local found, at = {}, 1
  while at <= #packed do
    local key_end = at + 1 + byte(packed, at)
    local pair_end = key_end + byte(packed, key_end)
    found[#found + 1] = sub(packed, at, pair_end)
    at = pair_end + 1
  end
  return found
end

-- The labels of a session, as a set of packed pairs.
local function labels_of(ctx, sid)
  ctx.labels = ctx.labels or {}
  local set = ctx.labels[sid]
  if not set then
    set = {}
    local packed = redis.call('HGET', ctx.base .. 'M', pack('>I4', sid))
    for _, pair in ipairs(packed and pairs_of(packed) or {}) do set[pair] = true end
    ctx.labels[sid] = set
  end
  return set
end

function choosing.meets(ctx, sid, required)
  if required == '' then return true end
  local set = labels_of(ctx, sid)
  for _, pair in ipairs(pairs_of(required)) do
    if not set[pair] then return false end
  end
  return true
end

-- Where a group has its turn among those that have jobs with the same labels, by the tag that it would start with now.
local function labelled_turn(ctx, group)
  local fair = limits.load(ctx)
  if group == '' then return math.max(fair.vt, fair.fw), 1 end
  local g = groups.get(ctx, group)
  groups.locate(ctx, g)
  if g.express then return math.max(g.tag, fair.vx) - EXPRESS_FIRST, g.weight end
  return math.max(g.tag, fair.vt), g.weight
end

-- Bring back jobs with these labels, of the groups that have their turn: each moves on as if one of them had started, whether it may start now or not.
local function bring_back_labelled(ctx, labels, count)
  local key = ctx.base .. 'Q' .. labels
  local turns = redis.call('ZRANGE', key, 0, BROUGHT_MAX - 1, 'WITHSCORES')
  for i = 1, #turns, 2 do
    local group = turns[i]
    local turn, weight = labelled_turn(ctx, group)
    if not groups.get(ctx, group).express then turn = math.max(turn, tonumber(turns[i + 1])) end
    redis.call('ZADD', key, 'XX', string.format('%.17g', turn + 1 / weight), group)
    lines.unpark(ctx, lines.labelled({ labels = labels, group = group }), count, ctx.brought)
  end
end

-- Let jobs that were parked for the labels of this session go back to their lines. Requirements are kept in order, so those that begin with a label stand together.
local function bring_back(ctx, sid, count)
  for pair in pairs(labels_of(ctx, sid)) do
    local found = redis.call('ZRANGEBYLEX', ctx.base .. 'q', '[' .. pair, '(' .. pair .. '\255', 'LIMIT', 0, 64)
    for i = 1, #found do
      if choosing.meets(ctx, sid, found[i]) then bring_back_labelled(ctx, found[i], count) end
    end
  end
  if ctx.touched then groups.settle(ctx) end
end

-- Park a job for a session that has its labels.
local function park_for_labels(ctx, j)
  local rules = lines.rules_of(j)
  local turn = string.format('%.17g', (labelled_turn(ctx, rules.group)))
  lines.park(ctx, lines.suffix(j), j, lines.labelled(rules))
  redis.call('ZADD', ctx.base .. 'q', 0, rules.labels)
  redis.call('ZADD', ctx.base .. 'Q' .. rules.labels, 'NX', turn, rules.group)
end

-- The session has no room for the payload of what is next. What it alone may take is in nobody's way meanwhile: what was brought back for it is parked again.
local function put_aside(ctx, j)
  if lines.rules_of(j).labels ~= '' then park_for_labels(ctx, j) end
  for _, other in ipairs(ctx.brought) do
    if redis.call('ZSCORE', ctx.base .. lines.suffix(other), place(other, other.id)) then park_for_labels(ctx, other) end
  end
end

local function owed(j)
  local labels = lines.rules_of(j).labels
  return pack('>I2', #labels) .. labels .. j.id
end

-- A job is held by a limit alone, and this session has its labels.
local function owe(ctx, j, labels)
  if labels == '' then return end
  redis.call('ZADD', ctx.base .. 'O', ctx.now_ms + OWED_MS, owed(j))
  redis.call('PEXPIRE', ctx.base .. 'O', OWED_MS)
end

-- For how long a job is owed room, in ms; less than 0: it is not.
local function owed_ms_of(ctx, j)
  return (tonumber(redis.call('ZSCORE', ctx.base .. 'O', owed(j))) or 0) - ctx.now_ms
end

-- A session has room left: what was brought back for it to a group that may not start it now is owed room, and so is, again, all that was and that it could take.
local function owe_more(ctx, sid)
  for _, j in ipairs(ctx.brought) do
    local rules = lines.rules_of(j)
    local g = rules.group ~= '' and groups.get(ctx, rules.group)
    if g then groups.locate(ctx, g) end
    if g and g.place == 'b' and redis.call('ZSCORE', ctx.base .. g.line, place(j, j.id)) then owe(ctx, j, rules.labels) end
  end
  redis.call('ZREMRANGEBYSCORE', ctx.base .. 'O', '-inf', ctx.now_ms)
  for _, member in ipairs(redis.call('ZRANGE', ctx.base .. 'O', 0, OWED_MAX - 1)) do
    local last = 2 + struct.unpack('>I2', member)
    local labels = sub(member, 3, last)
    if choosing.meets(ctx, sid, labels) then
      local j = find(ctx, sub(member, last + 1))
      if j and j.state == STATE.WAITING then owe(ctx, j, labels) else redis.call('ZREM', ctx.base .. 'O', member) end
    end
  end
end

-- One choice ------------------------------------------------------------------------------------------------------------------------------------------------

local function first_of(ctx, suffix)
  local found = redis.call('ZRANGE', ctx.base .. suffix, 0, 0, 'WITHSCORES')
  return found[1], tonumber(found[2])
end

-- The first of those that belong to no group: of `w` and of `l`.
local function ungrouped(ctx)
  local w, w_score = first_of(ctx, 'w')
  if ctx.lw == 0 then return w and { suffix = 'w', member = w, score = w_score } end
  local l, l_score = first_of(ctx, 'l')
  if l and (not w or l_score < w_score or (l_score == w_score and l < w)) then return { suffix = 'l', member = l, score = l_score } end
  return w and { suffix = 'w', member = w, score = w_score }
end

local function of_group(ctx, name, at, tag)
  local g = groups.get(ctx, name)
  groups.found(g, at, tag)
  -- Two, for what is left decides where the group stands next.
  local first = redis.call('ZRANGE', ctx.base .. g.line, 0, 1, 'WITHSCORES')
  return { suffix = g.line, member = first[1], score = tonumber(first[2]), group = g, more = first[3] ~= nil }
end

-- Who is next: { suffix of the line, member, score, group }, or nil.
local function pick(ctx)
  local fair = ctx.fair
  if fair.express ~= false then
    local name, tag = first_of(ctx, 'y')
    fair.express = name and true or false
    if name then return of_group(ctx, name, 'y', tag) end
  end
  local own = fair.own
  if own == nil then
    own = ungrouped(ctx) or false
    fair.own = own
  end
  local name, tag = first_of(ctx, 'r')
  if own and (not name or math.max(fair.vt, fair.fw) <= tag) then return own end
  return name and of_group(ctx, name, 'r', tag)
end

-- The job that a name awaits, where it is the first of its line and may start, but for the limit of the queue, when that has its turn.
function choosing.waits_for_turn(ctx, row)
  local j, awaited = groups.awaited_job(ctx, row), row.awaited
  if not j or has_flag(j, FLAG_ALONE) then return nil end
  local rules = lines.rules_of(j)
  if rules.group == '' then
    local first = ungrouped(ctx)
    return first and first.member == awaited.member and j or nil
  end
  local g = groups.get(ctx, rules.group)
  if first_of(ctx, g.line) ~= awaited.member then return nil end
  return groups.opens_at(ctx, g, rules.units) == 0 and not groups.is_kept(ctx, g, awaited, rules.units) and j or nil
end

-- From when a job name may start the job that is parked first for it, where that one goes before this one, as groups.opens_at: it waits for the room that it needs.
local function opens_before(ctx, limit, row, next_one, ahead)
  local first = redis.call('ZRANGE', ctx.base .. 'n' .. row.name, 0, 0, 'WITHSCORES')
  local score = tonumber(first[2])
  if not score or score > next_one.score or (score == next_one.score and first[1] > next_one.member) then return 0 end
  local j = find(ctx, sub(first[1], 9))
  return j and limits.name_opens_at(ctx, limit, row, lines.rules_of(j).units, ahead) or 0
end

-- Whether the job that is next may be taken by this session: nothing if so; else it is out of the way, or STOP when nothing may be taken.
local function judge(ctx, sid, next_one, ahead)
  local g, j = next_one.group, next_one.member and find(ctx, sub(next_one.member, 9))
  if not j or j.state ~= STATE.WAITING then
    if next_one.member then lines.remove(ctx, next_one.suffix, next_one.member) end
    if g then groups.settle_one(ctx, groups.touch(ctx, g.name)) end
    return MOVED
  end
  next_one.job = j
  local rules = lines.rules_of(j)
  local labels = choosing.meets(ctx, sid, rules.labels) and rules.labels or nil
  local owed_ms = labels and 0 or owed_ms_of(ctx, j)
  if owed_ms < 0 then
    park_for_labels(ctx, j)
    -- Whoever has the labels may be idle.
    ctx.wake = 'work'
    return MOVED
  end
  local name = ctx.policy.names and lines.job_name(j)
  local limit = name and ctx.policy.names[name]
  if limit then
    local row = limits.name(ctx, name)
    local date = limits.name_opens_at(ctx, limit, row, rules.units, ahead)
    if date == 0 then date = opens_before(ctx, limit, row, next_one, ahead) end
    if date == 0 and limits.kept_for(ctx, limit, row, next_one, rules.units, ahead) then date = ctx.now_ms + limits.YIELD_MS end
    if date > 0 then
      lines.park(ctx, next_one.suffix, j, 'n' .. name)
      groups.note_miss(row, next_one)
      row.changed = true
      if g then groups.note_miss(g, next_one) end
      redis.call('ZADD', ctx.base .. 'b', date, '\1' .. name)
      owe(ctx, j, labels or '')
      return MOVED
    end
  end
  if g and groups.is_kept(ctx, g, next_one, rules.units) then g.yields = true end
  if g and groups.opens_at(ctx, g, rules.units) > 0 then
    g.next_units = rules.units
    groups.settle_one(ctx, groups.touch(ctx, g.name))
    owe(ctx, j, labels or '')
    return MOVED
  end
  local date = limits.opens_at(ctx, rules.units, ahead)
  if date > 0 then
    limits.hold(ctx, date, rules.units)
    owe(ctx, j, labels or '')
    return STOP
  end
  if not labels then
    -- There is room for it; the session that was told of that has not come yet.
    limits.hold(ctx, ctx.now_ms + owed_ms)
    return STOP
  end
end

-- Take what was chosen out of its line, and count it.
local function take(ctx, next_one, ahead)
  local fair, j, g = ctx.fair, next_one.job, next_one.group
  redis.call('ZREM', ctx.base .. next_one.suffix, next_one.member)
  if next_one.suffix ~= 'w' then
    ctx.lw = ctx.lw - 1
    if next_one.suffix == 'l' and redis.call('EXISTS', ctx.base .. 'l') == 0 then redis.call('ZREM', ctx.base .. 'U', 'l') end
  end
  local rules = lines.rules_of(j)
  -- Those that have left it its room were refused because of it.
  if rules.labels ~= '' and redis.call('ZREM', ctx.base .. 'O', owed(j)) == 1 then ctx.wake = 'work' end
  local units = rules.units
  limits.count(ctx, j, ahead)
  if g then
    if g.express then fair.vx = g.tag else fair.vt = g.tag end
    groups.note_start(g, next_one)
    g.tag, g.next_units, g.waits = g.tag + units / g.weight, nil, next_one.more
    groups.settle_one(ctx, g)
  else
    fair.vt = math.max(fair.vt, fair.fw)
    fair.fw = fair.vt + units
    fair.own = nil
  end
  local name = ctx.policy.names and lines.job_name(j)
  local limited = name and ctx.policy.names[name]
  if limited then limits.note_start(ctx, limits.name(ctx, name), next_one) end
  if limited and not has_flag(j, FLAG_COUNTED) then redis.call('SETRANGE', ctx.record_key .. j.id, 2, string.char(j.flags + FLAG_COUNTED)) end
end

-- A call's choices ---------------------------------------------------------------------------------------------------------------------------------------------

-- Lease those that were chosen. One that could not be leased after all counts no more; its start is not given back.
local function lease_chosen(ctx, sid, chosen, out)
  local members, from = {}, #out
  for i = 1, #chosen do members[i] = chosen[i].member end
  local size = lease_popped(ctx, sid, members, out)
  local at = from + 1
  for i = 1, #chosen do
    local j = chosen[i].job
    if out[at] == j.id then
      at = at + 3
    else
      limits.leave(ctx, j)
    end
    ctx.jobs[j.id], ctx.records[j.id] = nil, nil
  end
  return size
end

-- What a call must know before it chooses for a session.
local function prepare(ctx, sid, count)
  send_gathered(ctx)
  local fair = limits.load(ctx)
  fair.active, fair.own, fair.express = redis.call('ZCARD', ctx.base .. 'a'), nil, nil
  -- One that goes alone may have been looked for first.
  ctx.brought, ctx.prepared = ctx.prepared == sid and ctx.brought or {}, sid
  local added = ctx.added
  groups.open_due(ctx)
  if ctx.lw > 0 and redis.call('EXISTS', ctx.base .. 'q', ctx.base .. 'O') > 0 then bring_back(ctx, sid, count) end
  -- What opens by its date is this call's to take; whoever else was refused it knows the date as well.
  ctx.added = added
end

-- Whether a queue is one for which this file is needed.
function choosing.is_needed(ctx)
  return ctx.lw > 0 or ctx.policy.limit ~= nil or ctx.policy.names ~= nil
end

-- How many jobs a session may get that are chosen without all this: by the queue's limit alone. -1: they must be chosen.
function choosing.plain_room(ctx, sid, count)
  prepare(ctx, sid, count)
  if ctx.lw > 0 or ctx.policy.names then return -1 end
  return limits.allowed(ctx, count)
end

-- Choose and lease. `bytes` is the hard limit on payloads, -1: none.
function choosing.lease(ctx, sid, count, bytes, out)
  local chosen, steps = {}, 0
  while #chosen < count and ctx.spent < LEASE_BYTES do
    local date = limits.opens_at(ctx, 1, #chosen)
    -- With labels it goes on to see what it is refused.
    if date > 0 and (#chosen > 0 or not next(labels_of(ctx, sid))) then
      limits.hold(ctx, date, 1)
      break
    end
    steps = steps + 1
    if steps > STEPS_MAX then
      ctx.opens = 0
      break
    end
    local next_one = pick(ctx)
    if not next_one then
      ask_for_wake(ctx)
      break
    end
    local verdict = judge(ctx, sid, next_one, #chosen)
    if verdict == STOP then break end
    if verdict == MOVED then
      ctx.fair.own = nil
    else
      if bytes >= 0 then
        local size = payload_size(ctx, next_one.job.id)
        if size > bytes then
          put_aside(ctx, next_one.job)
          break
        end
        bytes = bytes - size
      end
      take(ctx, next_one, #chosen)
      chosen[#chosen + 1] = next_one
      ctx.spent = ctx.spent + #ctx.records[next_one.job.id]
      if has_flag(next_one.job, FLAG_APART) then ctx.spent = ctx.spent + redis.call('STRLEN', ctx.payload_key .. next_one.job.id) end
      if has_flag(next_one.job, FLAG_KEPT) then ctx.spent = ctx.spent + redis.call('STRLEN', ctx.base .. 'y' .. next_one.job.id) end
    end
  end
  if #chosen > 0 then lease_chosen(ctx, sid, chosen, out) end
  limits.settle(ctx)
  local labels = ctx.labels and ctx.labels[sid]
  if #chosen < count and labels and next(labels) then owe_more(ctx, sid) end
end

-- One that is to go alone may not start for want of room: nobody takes what it waits for. True when that is the queue's. What lacks several limits is left the
-- narrowest first and keeps it, and the next when it has that, so that each wait lasts as long as what runs, and the queue waits for nothing but its own limit.
-- Whose group may not start at all waits for somebody's word, and nobody waits with it.
local function keep_room(ctx, g, group_date, row, name_date)
  if g and (g.paused or g.frozen > ctx.now_ms) then return false end
  if row then row.yields = true end
  if name_date > 0 then return false end
  if g then g.yields = true end
  return group_date == 0
end

-- From when the queue, its group and its name let a job of those that go alone start; and the group, and the name.
local function dates_of(ctx, j)
  local rules, name = lines.rules_of(j), lines.job_name(j)
  local limit = ctx.policy.names and ctx.policy.names[name]
  local g, row = rules.group ~= '' and groups.get(ctx, rules.group), limit and limits.name(ctx, name)
  local group_date = g and groups.opens_at(ctx, g, rules.units) or 0
  return limits.opens_at(ctx, rules.units), group_date, row and limits.name_opens_at(ctx, limit, row, rules.units) or 0, g, row
end

-- The first of those that are to be delivered alone which this session may get now, or nil. Nil and true: nothing may start, for one of them waits for room.
function choosing.alone(ctx, sid)
  local members = redis.call('ZRANGE', ctx.base .. 'o', 0, ALONE_MAX - 1)
  if not ctx.fair or not ctx.fair.active then prepare(ctx, sid, 1) end
  for i = 1, #members do
    local j = find(ctx, sub(members[i], 9))
    if not j then return members[i] end
    local rules = lines.rules_of(j)
    local queue_date, group_date, name_date, g, row = dates_of(ctx, j)
    local date = math.max(queue_date, group_date, name_date)
    local meets = choosing.meets(ctx, sid, rules.labels)
    if date == 0 and meets then return members[i], j end
    local owed_ms = meets and OWED_MS or owed_ms_of(ctx, j)
    if date == 0 and owed_ms > 0 then
      -- There is room for it; the session that was told of that has not come yet.
      limits.hold(ctx, ctx.now_ms + owed_ms)
      return nil, true
    end
    if queue_date > 0 then limits.hold(ctx, queue_date, rules.units) end
    if date > 0 and date < math.huge then limits.hold(ctx, date) end
    if date > 0 and meets then owe(ctx, j, rules.labels) end
    if date > 0 and owed_ms > 0 and keep_room(ctx, g, group_date, row, name_date) then return nil, true end
  end
end

-- What explain asks, and what only reads: the jobs for which room is kept that this one, which waits too, could use.
local function kept_for_alone(ctx, g, row)
  local kept = {}
  for _, member in ipairs(redis.call('ZRANGE', ctx.base .. 'o', 0, ALONE_MAX - 1)) do
    local other = find(ctx, sub(member, 9))
    if other and (lines.rules_of(other).labels == '' or owed_ms_of(ctx, other) > 0) then
      local queue_date, group_date, name_date, its_group, its_row = dates_of(ctx, other)
      if math.max(queue_date, group_date, name_date) > 0 then
        local holds_queue = keep_room(ctx, its_group, group_date, its_row, name_date)
        if holds_queue then kept.queue = kept.queue or other end
        if g and g == its_group and g.yields and not holds_queue then kept.group = kept.group or other end
        if row and row == its_row and row.yields and not holds_queue then kept.name = kept.name or other end
      end
    end
  end
  return kept
end

-- The first of a line, where it goes before a job.
local function first_before(ctx, line, score, member)
  local first = redis.call('ZRANGE', ctx.base .. line, 0, 0, 'WITHSCORES')
  local before = tonumber(first[2])
  if not before or before > score or (before == score and first[1] >= member) then return nil end
  return find(ctx, sub(first[1], 9))
end

-- The one whose turn it is, where it waits for room under the queue's limit alone.
local function kept_for_turn(ctx, j)
  local turn = ctx.policy.limit and pick(ctx)
  local other = turn and turn.member and find(ctx, sub(turn.member, 9))
  if not other or other.id == j.id or not (lines.rules_of(other).labels == '' or owed_ms_of(ctx, other) > 0) then return nil end
  local queue_date, group_date, name_date = dates_of(ctx, other)
  return queue_date > 0 and group_date == 0 and name_date == 0 and other or nil
end

-- Under the queue's limit, its group's, and its name's: nothing where that has no room for it anyhow.
function choosing.kept_for(ctx, j)
  local queue_date, group_date, name_date, g, row = dates_of(ctx, j)
  local score, member, units = lines.score(ctx, j.priority, j.order), place(j, j.id), lines.rules_of(j).units
  local by_turn, by_group, by_name = kept_for_turn(ctx, j), nil, nil
  if g and groups.is_kept(ctx, g, { score = score, member = member }, units) then
    by_group = groups.awaited(ctx, g)
  elseif g then
    local first = first_before(ctx, g.line, score, member)
    if first and groups.opens_at(ctx, g, lines.rules_of(first).units) > 0 then by_group = first end
  end
  local first = row and first_before(ctx, 'n' .. row.name, score, member)
  if first and limits.name_opens_at(ctx, ctx.policy.names[row.name], row, lines.rules_of(first).units) > 0 then
    by_name = first
  elseif row and not has_flag(j, FLAG_ALONE) then
    by_name = limits.kept_for(ctx, ctx.policy.names[row.name], row, { score = score, member = member, group = g }, units)
  end
  local alone = has_flag(j, FLAG_ALONE) and {} or kept_for_alone(ctx, g, row)
  return {
    queue = queue_date == 0 and (alone.queue or by_turn) or nil,
    group = group_date == 0 and (alone.group or by_group) or nil,
    name = name_date == 0 and (alone.name or by_name) or nil,
  }
end

-- Count one that goes alone.
function choosing.count_alone(ctx, j)
  if not j then return end
  local rules, name = lines.rules_of(j), lines.job_name(j)
  -- Those that have left it its room were refused because of it.
  if rules.labels ~= '' and redis.call('ZREM', ctx.base .. 'O', owed(j)) == 1 then ctx.wake = 'work' end
  if rules.group ~= '' then groups.get(ctx, rules.group).yields = nil end
  local limited = ctx.policy.names and ctx.policy.names[name]
  if limited then limits.name(ctx, name).yields = nil end
  if limited and not has_flag(j, FLAG_COUNTED) then redis.call('SETRANGE', ctx.record_key .. j.id, 2, string.char(j.flags + FLAG_COUNTED)) end
  limits.count(ctx, j, 0)
  ctx.jobs[j.id], ctx.records[j.id] = nil, nil
end

-- In how many ms leases may be asked for again, after a call that was refused some because of the time; -1: nobody knows.
function choosing.opens_in(ctx)
  local date = ctx.opens or math.huge
  local first = redis.call('ZRANGE', ctx.base .. 'b', 0, 0, 'WITHSCORES')
  if first[2] then date = math.min(date, tonumber(first[2])) end
  return date < math.huge and math.max(1, math.ceil(date - ctx.now_us / 1000)) or -1
end
