--- Limits: of the queue, of its groups, of its job names. Concurrency is counted from leases, by all that gives or ends one; rates by GCRA.
--
-- A rate of `count` units per `period` keeps one date, `tat`: units are worth `step` µs each, `tat` moves on by them, and a start is allowed from `tat` less a
-- tolerance on. step = (period + slack) / (count − burst + 1) and tolerance = (burst − 1)·step + slack let no window of `period`, wherever it is laid, hold more
-- than `count`. The slack, at most 40 ms and a twenty-fifth of the period, lets calls that come late catch up. GUARD covers the numbers that one call gives out.
-- Nothing is given back: a job that is handed back at once has started all the same.
local GUARD = 300
local SLACK_MAX, SLACK_SHARE = 40000, 25
-- Those of a group, or of a job name, of which one waits for room to go alone are looked at again after so long.
limits.YIELD_MS = 1000
-- How often a job may miss the room that its name had, before its group keeps room for it, or its name.
limits.MISSES_MAX = 8
local NAME_ROW, NAME_AWAITED, NAME_AWAITED_AT = '>I4d', '>I2d', 13
local STATE_FIELDS = { 'vt', 'fw', 'vx', 'tat', 'extra' }

-- What is kept for choosing: virtual time, the tag of those without a group, virtual time of express groups; the date of the queue's rate; the units of its leases
-- beyond one each.
function limits.load(ctx)
  local fair = ctx.fair
  if fair then return fair end
  local found = redis.call('HMGET', ctx.meta, unpack(STATE_FIELDS))
  fair = { old = found }
  for i = 1, #STATE_FIELDS do fair[STATE_FIELDS[i]] = tonumber(found[i]) or 0 end
  ctx.fair = fair
  return fair
end

function limits.save(ctx)
  for i = 1, #STATE_FIELDS do
    local value = ctx.fair[STATE_FIELDS[i]]
    if value ~= (tonumber(ctx.fair.old[i]) or 0) then set_meta(ctx, STATE_FIELDS[i], string.format('%.17g', value)) end
  end
  limits.save_names(ctx)
end

-- Rates ---------------------------------------------------------------------------------------------------------------------------------------------------

local function pace(rate)
  local period, burst = rate.period * 1000, rate.burst or 1
  local slack = math.min(SLACK_MAX, period / SLACK_SHARE)
  local step = math.ceil((period + slack + GUARD) / (rate.count - burst + 1))
  return step, (burst - 1) * step + slack
end

-- The moment of a start: the number that it will get, which is its token. Unless the store's clock has gone back, and the numbers are far ahead of it.
local function moment(ctx, ahead)
  local n = ctx.n + (ahead or 0) + 1
  return n < ctx.now_us + 1000000 and n or ctx.now_us
end

-- From when so many units may start: 0 now, or a date in ms.
function limits.date(ctx, rate, tat, units, ahead)
  local step, tolerance = pace(rate)
  local now = moment(ctx, ahead)
  -- Further ahead than starts can move it: of another rate, or of a clock that went back.
  if tat > now + (rate.count + 1) * step then return 0 end
  local date = tat + (math.min(units, rate.count) - 1) * step - tolerance
  return date > now and date / 1000 or 0
end

-- The date after a start.
function limits.passed(ctx, rate, tat, units, ahead)
  local step = pace(rate)
  local now = moment(ctx, ahead)
  if tat > now + (rate.count + 1) * step then tat = now end
  return math.max(tat, now) + math.min(units, rate.count) * step
end

-- Until when, in µs, a rate has to remember its date: a start of many units waits for longer than `tat`, and one within the burst starts before it.
function limits.remembered(limit, tat)
  if not limit or not limit.rate or tat == 0 then return tat end
  return tat + (limit.rate.count - 1) * pace(limit.rate)
end

-- The queue -----------------------------------------------------------------------------------------------------------------------------------------------

-- From when the queue may start so many units, as groups.opens_at.
function limits.opens_at(ctx, units, ahead)
  local limit, fair = ctx.policy.limit, limits.load(ctx)
  if not limit then return 0 end
  local most = limit.concurrency
  if most and fair.active + fair.extra + math.min(units, most) > most then return math.huge end
  return limit.rate and limits.date(ctx, limit.rate, fair.tat, units, ahead) or 0
end

-- The queue may not start so many units before `date`: leases are asked for again then, or when there is room for them.
function limits.hold(ctx, date, units)
  if date < math.huge then
    ctx.opens = math.min(ctx.opens or math.huge, date)
  elseif ctx.full ~= units then
    ctx.full = units
    set_meta(ctx, 'full', units)
  end
end

-- How many plain jobs may start now, of `count`.
function limits.allowed(ctx, count)
  local limit, fair = ctx.policy.limit, limits.load(ctx)
  if not limit then return count end
  local room, tat = count, fair.tat
  if limit.concurrency then room = math.min(room, math.max(0, limit.concurrency - fair.active - fair.extra)) end
  if room < count then limits.hold(ctx, math.huge, 1) end
  if not limit.rate then return room end
  for i = 1, room do
    local date = limits.date(ctx, limit.rate, tat, 1, i - 1)
    if date > 0 then
      limits.hold(ctx, date, 1)
      return i - 1
    end
    tat = limits.passed(ctx, limit.rate, tat, 1, i - 1)
  end
  return room
end

-- So many plain jobs have started.
function limits.started(ctx, count)
  local limit, fair = ctx.policy.limit, limits.load(ctx)
  fair.active = fair.active + count
  if not limit or not limit.rate then return end
  for i = 1, count do fair.tat = limits.passed(ctx, limit.rate, fair.tat, 1, i - 1 - count) end
end

-- Somebody found the queue's limit used up: tell all brokers when it is not any more.
function limits.tell_room(ctx)
  local limit, fair = ctx.policy.limit, limits.load(ctx)
  local most = limit and limit.concurrency
  if most and redis.call('ZCARD', ctx.base .. 'a') + fair.extra + math.min(ctx.full, most) > most then return end
  set_meta(ctx, 'full', '0')
  ctx.full = nil
  if waiting_count(ctx) > 0 then ctx.wake = ctx.wake or 'work' end
end

-- Job names -----------------------------------------------------------------------------------------------------------------------------------------------

-- The row of a name: units leased, date of its rate; and the job that is awaited, if there is one: how often the room was missed, score and member.
function limits.name(ctx, name)
  ctx.names = ctx.names or {}
  local row = ctx.names[name]
  if not row then
    row = { active = 0, tat = 0, name = name }
    local found = redis.call('HGET', ctx.base .. 'N', name)
    if found then row.active, row.tat = struct.unpack(NAME_ROW, found) end
    if found and #found > NAME_AWAITED_AT then
      local misses, score = struct.unpack(NAME_AWAITED, found, NAME_AWAITED_AT)
      row.awaited = { misses = misses, score = score, member = sub(found, NAME_AWAITED_AT + 10) }
    end
    ctx.names[name] = row
  end
  return row
end

function limits.save_names(ctx)
  for name, row in pairs(ctx.names or {}) do
    if row.changed then
      row.changed = false
      local awaited = row.awaited
      if row.active > 0 or awaited or limits.remembered((ctx.policy.names or NO_POLICY)[name], row.tat) > ctx.now_us then
        awaited = awaited and struct.pack(NAME_AWAITED, awaited.misses, awaited.score) .. awaited.member or ''
        redis.call('HSET', ctx.base .. 'N', name, struct.pack(NAME_ROW, row.active, row.tat) .. awaited)
      else
        redis.call('HDEL', ctx.base .. 'N', name)
      end
    end
  end
end

-- From when so many units of a job name may start, as groups.opens_at.
function limits.name_opens_at(ctx, limit, row, units, ahead)
  if limit.concurrency and row.active + math.min(units, limit.concurrency) > limit.concurrency then return math.huge end
  local date = row.yields and ctx.now_ms + limits.YIELD_MS or 0
  return limit.rate and math.max(date, limits.date(ctx, limit.rate, row.tat, units, ahead)) or date
end

-- Something of a job name has changed: `settle_names` lets those go back that may start.
function limits.touch(ctx, name)
  ctx.touched_names = ctx.touched_names or {}
  ctx.touched_names[name] = true
end

-- How many jobs of a name may start now, and from when the next one after them, as groups.opens_at: 0 when nobody knows.
local function name_room(ctx, limit, row)
  local room, rate, tat = lines.UNPARK_MAX, limit.rate, row.tat
  if limit.concurrency then room = math.min(room, math.max(0, limit.concurrency - row.active)) end
  if room == 0 then return 0, math.huge end
  if not rate then return room, 0 end
  for i = 1, room do
    local date = limits.date(ctx, rate, tat, 1)
    if date > 0 then return i - 1, date end
    tat = limits.passed(ctx, rate, tat, 1)
  end
  return room, 0
end

-- Jobs go back to their lines, for their name has room. Later ones may take it before the first of them has its turn, and so for ever where others of its line use
-- up the share of that. So it is counted how often the first has missed the room, and after MISSES_MAX the name keeps it: for no longer than the job waits for its
-- turn and for nothing else. Another is awaited in its place where it waits for something else; what was missed still counts then.
local function await(ctx, row, back)
  local before = groups.awaited_job(ctx, row) and row.awaited
  for _, j in ipairs(back) do
    if lines.rules_of(j).labels == '' then
      local one = { misses = before and before.misses or 0, score = lines.score(ctx, j.priority, j.order), member = place(j, j.id) }
      if not before or before.member ~= one.member and not (groups.is_behind(row, one) and choosing.waits_for_turn(ctx, row)) then row.awaited = one end
      return
    end
  end
end

-- The job for which a name keeps its room, where that has none for another before it as well; nil: for none. Express groups go before all others here, too.
function limits.kept_for(ctx, limit, row, next_one, units, ahead)
  if not row.awaited or row.awaited.misses < limits.MISSES_MAX or not groups.is_behind(row, next_one) then return nil end
  local j = choosing.waits_for_turn(ctx, row)
  if not j then return nil end
  local rules, most, rate = lines.rules_of(j), limit.concurrency, limit.rate
  if next_one.group and next_one.group.express and not (rules.group ~= '' and groups.get(ctx, rules.group).express) then return nil end
  if most and row.active + math.min(units, most) + math.min(rules.units, most) > most then return j end
  return rate and limits.date(ctx, rate, limits.passed(ctx, rate, row.tat, units, ahead), rules.units, ahead) > 0 and j or nil
end

-- A job of a name starts: what has left it the room of its name need not any more.
function limits.note_start(ctx, row, next_one)
  local awaited = row.awaited
  if not awaited or awaited.member ~= next_one.member then return end
  row.awaited = nil
  if awaited.misses >= limits.MISSES_MAX then limits.touch(ctx, row.name) end
end

local function settle_name(ctx, name)
  local limit, row, line = (ctx.policy.names or {})[name], limits.name(ctx, name), 'n' .. name
  local room, date = lines.UNPARK_MAX, 0
  if limit then room, date = name_room(ctx, limit, row) end
  local parked, back = redis.call('ZCARD', ctx.base .. line), {}
  if parked > 0 and room > 0 then parked = parked - lines.unpark(ctx, line, room, back) end
  if limit then
    for _, j in ipairs(back) do groups.await(ctx, j) end
    await(ctx, row, back)
  else
    row.awaited = nil
  end
  row.changed = true
  if parked > 0 then
    -- Those that went back may go another way than to start: others have their turn then.
    if limit and date == 0 then date = ctx.now_ms + 1000 end
  else
    local last = limits.remembered(limit, row.tat)
    date = row.active == 0 and last > ctx.now_us and last / 1000 or 0
  end
  if parked == 0 and date == 0 then
    redis.call('ZREM', ctx.base .. 'b', '\1' .. name)
  else
    redis.call('ZADD', ctx.base .. 'b', date, '\1' .. name)
  end
end

function limits.settle_names(ctx)
  while ctx.touched_names do
    local names = ctx.touched_names
    ctx.touched_names = nil
    for name in pairs(names) do settle_name(ctx, name) end
    limits.load(ctx)
  end
end

-- Put names and groups that this call has touched where they belong. What was gathered has been sent.
function limits.settle(ctx)
  if ctx.touched_names then limits.settle_names(ctx) end
  if ctx.touched then groups.settle(ctx) end
end

-- Leases --------------------------------------------------------------------------------------------------------------------------------------------------

-- A lease begins: count it everywhere. `ahead`: how many others of this call get their number first.
function limits.count(ctx, j, ahead)
  local fair, rules, units = limits.load(ctx), lines.rules_of(j), lines.rules_of(j).units
  fair.active, fair.extra = fair.active and fair.active + 1, fair.extra + units - 1
  local limit = ctx.policy.limit
  if limit and limit.rate then fair.tat = limits.passed(ctx, limit.rate, fair.tat, units, ahead) end
  if rules.group ~= '' then
    local g = groups.touch(ctx, rules.group)
    local own = groups.limit_of(ctx, g)
    g.active = g.active + units
    if own and own.rate then g.tat = limits.passed(ctx, own.rate, g.tat, units, ahead) end
  end
  local name = ctx.policy.names and lines.job_name(j)
  if name and ctx.policy.names[name] then
    local row, own = limits.name(ctx, name), ctx.policy.names[name]
    row.active, row.changed = row.active + units, true
    if own.rate then row.tat = limits.passed(ctx, own.rate, row.tat, units, ahead) end
  end
end

-- A lease that was counted ends.
function limits.leave(ctx, j)
  local fair, rules = limits.load(ctx), lines.rules_of(j)
  fair.extra = math.max(0, fair.extra - rules.units + 1)
  if fair.active then fair.active = fair.active - 1 end
  if rules.group ~= '' then
    local g = groups.touch(ctx, rules.group)
    g.active = math.max(0, g.active - rules.units)
  end
  local name = ctx.policy.names and lines.job_name(j)
  if name and ctx.policy.names[name] then
    local row = limits.name(ctx, name)
    row.active, row.changed = math.max(0, row.active - rules.units), true
    limits.touch(ctx, name)
  end
end

-- A job that was put back is to be its worker's again: whether there is room for it. It has started before, so rates say nothing. It is counted if so.
function limits.readmit(ctx, j)
  local rules, policy, fair = lines.rules_of(j), ctx.policy, nil
  if policy.limit and policy.limit.concurrency then
    fair = limits.load(ctx)
    if not fair.active then
      send_gathered(ctx)
      fair.active = redis.call('ZCARD', ctx.base .. 'a')
    end
    if fair.active + fair.extra + math.min(rules.units, policy.limit.concurrency) > policy.limit.concurrency then return false end
  end
  local g = rules.group ~= '' and groups.get(ctx, rules.group)
  local own = g and groups.limit_of(ctx, g)
  if own and own.concurrency and g.active + math.min(rules.units, own.concurrency) > own.concurrency then return false end
  local name = policy.names and lines.job_name(j)
  local limit = name and policy.names[name]
  if limit then
    if limit.concurrency and limits.name(ctx, name).active + math.min(rules.units, limit.concurrency) > limit.concurrency then return false end
    set_flag(j, FLAG_COUNTED)
  end
  if fair then fair.active = fair.active + 1 end
  if not has_flag(j, FLAG_COUNTED) then return true end
  limits.load(ctx).extra = ctx.fair.extra + rules.units - 1
  if g then groups.touch(ctx, rules.group).active = g.active + rules.units end
  if limit then
    local row = limits.name(ctx, name)
    row.active, row.changed = row.active + rules.units, true
  end
  return true
end

-- A new policy ---------------------------------------------------------------------------------------------------------------------------------------------

-- Count the leases of all names that have a limit. Those of names that had none until now are not counted yet.
local function count_names(ctx)
  local names, rows = ctx.policy.names or {}, redis.call('HGETALL', ctx.base .. 'N')
  for i = 1, #rows, 2 do
    local row = limits.name(ctx, rows[i])
    row.active, row.changed = 0, true
    if not names[rows[i]] then row.tat, row.awaited = 0, nil end
  end
  if not next(names) then return end
  local members = redis.call('ZRANGE', ctx.base .. 'a', 0, -1)
  local ids = {}
  for i = 1, #members do ids[i] = sub(members[i], 13) end
  fetch(ctx, ids)
  for i = 1, #ids do
    local j = find(ctx, ids[i])
    local name = j and lines.job_name(j)
    if name and names[name] then
      local row = limits.name(ctx, name)
      row.active, row.changed = row.active + lines.rules_of(j).units, true
      if not has_flag(j, FLAG_COUNTED) then redis.call('SETRANGE', ctx.record_key .. ids[i], 2, string.char(j.flags + FLAG_COUNTED)) end
    end
  end
  ctx.records, ctx.jobs = {}, {}
end

-- The limits of the queue have changed: count what they count, and look at all that is blocked again.
function limits.judge(ctx)
  set_meta(ctx, 'judged', ctx.policy.mark)
  count_names(ctx)
  limits.load(ctx)
  local blocked = redis.call('ZRANGE', ctx.base .. 'b', 0, -1)
  for i = 1, #blocked do gather(ctx, 'ZADD b', '0', blocked[i]) end
  send_gathered(ctx)
  ctx.wake = 'work'
end
