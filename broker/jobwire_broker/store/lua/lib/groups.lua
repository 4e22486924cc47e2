--- Groups: which of them may run now, and whose turn it is.
--
-- Start-time fair queueing. The virtual time V is the start tag of the group that was chosen last; who is chosen pays units/weight on its tag, and the lowest tag
-- is chosen next. A group that comes back goes on at its old tag, but never behind V: what it did not use while it had nothing to do is not saved up.
-- A group stands in one place at most:
--   r  it may run, and has jobs that wait: score = its tag        y  the same, for express groups
--   b  it may not run: score = the date in ms from which it may, +inf when something else must happen first. A group without waiting jobs stands here, too, while
--      it must be remembered when its next start may be
--   v  nothing waits, and it has had more than its share lately: score = its tag. The row of an express group remembers it instead
-- So who is blocked is in nobody's way, and to choose is to look at the first of `r`, however many groups there are.
local GROUP_ROW, PARKED = '>BdI4dddI4I4dI4', '>I4'
local PARKED_AT = 58
local AWAITED, AWAITED_AT = '>I2d', 62
local GROUP_FLAG = { PAUSED = 1, EXPRESS = 2, OWN = 4 }
local PLACES = { 'r', 'b', 'y', 'v' }

local function bit(flags, flag)
  return math.floor(flags / flag) % 2 == 1
end

-- The row of a group: its rules (paused, express, weight, a limit of its own) and its counters (units leased, date of its rate in µs, frozen until in ms, tag;
-- behind the limit, how many of its jobs are parked, and the one that is awaited, if there is one: how often it has missed, score and member).
function groups.decode(name, row)
  local g = { name = name, line = 'l' .. name, had_row = row and true or false, weight = 1, active = 0, tat = 0, frozen = 0, tag = 0, parked = 0 }
  if not row then return g end
  local flags, concurrency, count, period, burst
  flags, g.weight, g.active, g.tat, g.frozen, g.tag, concurrency, count, period, burst = struct.unpack(GROUP_ROW, row)
  if #row >= PARKED_AT + 3 then g.parked = struct.unpack(PARKED, row, PARKED_AT) end
  if #row > AWAITED_AT then
    local misses, score = struct.unpack(AWAITED, row, AWAITED_AT)
    g.awaited = { misses = misses, score = score, member = sub(row, AWAITED_AT + 10) }
  end
  g.paused, g.express = bit(flags, GROUP_FLAG.PAUSED), bit(flags, GROUP_FLAG.EXPRESS)
  if bit(flags, GROUP_FLAG.OWN) then
    g.own = { concurrency = concurrency > 0 and concurrency or nil, rate = count > 0 and { count = count, period = period, burst = burst } or nil }
  end
  return g
end

local function encode_row(g)
  local own = g.own or {}
  local rate = own.rate or { count = 0, period = 0, burst = 1 }
  local flags = (g.paused and GROUP_FLAG.PAUSED or 0) + (g.express and GROUP_FLAG.EXPRESS or 0) + (g.own and GROUP_FLAG.OWN or 0)
  return struct.pack(GROUP_ROW, flags, g.weight, g.active, g.tat, g.frozen, g.tag, own.concurrency or 0, rate.count, rate.period, rate.burst)
    .. struct.pack(PARKED, g.parked) .. (g.awaited and struct.pack(AWAITED, g.awaited.misses, g.awaited.score) .. g.awaited.member or '')
end

-- A group as this call knows it.
function groups.get(ctx, name)
  ctx.groups = ctx.groups or {}
  local g = ctx.groups[name]
  if not g then
    g = groups.decode(name, redis.call('HGET', ctx.base .. 'G', name))
    ctx.groups[name] = g
  end
  return g
end

-- Find out where a group stands.
function groups.locate(ctx, g)
  if g.place ~= nil then return end
  g.place = false
  for i = 1, #PLACES do
    local score = redis.call('ZSCORE', ctx.base .. PLACES[i], g.name)
    if score then
      g.place, g.score = PLACES[i], tonumber(score)
      break
    end
  end
  g.placed = g.place
  if g.place and g.place ~= 'b' then g.tag = g.score end
end

-- A group was found at a place, with this tag.
function groups.found(g, at, tag)
  if g.place == nil then g.place, g.placed, g.score, g.tag = at, at, tag, tag end
end

-- Something of a group has changed: `settle` puts it where it belongs.
function groups.touch(ctx, name)
  local g = groups.get(ctx, name)
  g.waits = nil
  ctx.touched = ctx.touched or {}
  ctx.touched[name] = g
  return g
end

-- A job was parked (1), or is not any more (-1).
function groups.park(ctx, name, count)
  if name == '' then return end
  local g = groups.touch(ctx, name)
  g.parked = math.max(0, g.parked + count)
end

-- A job enters the line of a group. One that is ready stays where it is. One in `b` is looked at again: it may have stood there to be remembered alone, or for a
-- first job with more units than this one.
function groups.enter(ctx, name)
  local g = groups.get(ctx, name)
  groups.locate(ctx, g)
  if g.place == 'r' or g.place == 'y' then
    ctx.added = ctx.added + 1
  elseif g.place ~= 'b' or not (g.paused or g.frozen > ctx.now_ms) then
    groups.touch(ctx, name).next_units = nil
  end
end

-- Here and in the next: `g` may be the row of a job name as well.
function groups.is_behind(g, next_one)
  local awaited = g.awaited
  return next_one.score > awaited.score or (next_one.score == awaited.score and next_one.member > awaited.member)
end

-- The job that is awaited. Who waits no more, or elsewhere, is not.
function groups.awaited_job(ctx, g)
  local awaited = g.awaited
  local j = awaited and find(ctx, sub(awaited.member, 9))
  if j and j.state == STATE.WAITING and place(j, j.id) == awaited.member and lines.score(ctx, j.priority, j.order) == awaited.score then return j end
  g.awaited = nil
end

-- A job goes back to its line, for its name has room. Its group may have none now, and its name none when its group has some, and so for ever. So the first of
-- these in a group is awaited: how often it misses the room of its name is counted, and after MISSES_MAX its group keeps room for it. Others of its group may
-- pass it as often as they like while its name has no room, for that takes nothing from it.
function groups.await(ctx, j)
  local rules = lines.rules_of(j)
  if rules.group == '' or rules.labels ~= '' then return end
  local g = groups.get(ctx, rules.group)
  if not groups.limit_of(ctx, g) then return end
  local member, score = place(j, j.id), lines.score(ctx, j.priority, j.order)
  if groups.awaited_job(ctx, g) and (member == g.awaited.member or groups.is_behind(g, { member = member, score = score })) then return end
  groups.touch(ctx, g.name).awaited = { misses = 0, score = score, member = member }
end

-- A job of a group, or of a name, is parked, for its name has no room, or none any more.
function groups.note_miss(g, next_one)
  local awaited = g.awaited
  if awaited and next_one.member == awaited.member then awaited.misses = math.min(awaited.misses + 1, limits.MISSES_MAX) end
end

-- A job of a group starts.
function groups.note_start(g, next_one)
  if g.awaited and next_one.member == g.awaited.member then g.awaited = nil end
end

-- The job that is awaited, where it may be kept room: nobody goes before it under its name.
function groups.awaited(ctx, g)
  local j = g.awaited and g.awaited.misses >= limits.MISSES_MAX and groups.awaited_job(ctx, g)
  if not j then return nil end
  local line = ctx.base .. 'n' .. lines.job_name(j)
  if redis.call('ZSCORE', line, g.awaited.member) and redis.call('ZRANGE', line, 0, 0)[1] ~= g.awaited.member then return nil end
  return j
end

-- Whether a group has room for so many units and then for a job: at once where the limit of its name may have room for it at any moment, else from the date on
-- from which it has.
local function has_room_beside(ctx, g, limit, units, j)
  local its, most, name = lines.rules_of(j).units, limit.concurrency, lines.job_name(j)
  if most and g.active + math.min(units, most) + math.min(its, most) > most then return false end
  if not limit.rate then return true end
  local named = (ctx.policy.names or NO_POLICY)[name]
  local date = named and limits.name_opens_at(ctx, named, limits.name(ctx, name), its) or 0
  return limits.date(ctx, limit.rate, limits.passed(ctx, limit.rate, g.tat, units), its) <= (date < math.huge and date or 0)
end

-- Whether the room that is left in a group is kept for the one that is awaited.
function groups.is_kept(ctx, g, next_one, units)
  local limit = groups.limit_of(ctx, g)
  if not g.awaited or not limit or not groups.is_behind(g, next_one) then return false end
  local j = groups.awaited(ctx, g)
  return j ~= nil and not has_room_beside(ctx, g, limit, units, j)
end

local function put(ctx, g, to, score)
  if g.place == to and g.score == score then return end
  if g.place and g.place ~= to then redis.call('ZREM', ctx.base .. g.place, g.name) end
  if to then redis.call('ZADD', ctx.base .. to, score, g.name) end
  g.place, g.score = to, score
end

function groups.limit_of(ctx, g)
  return g.own or ctx.policy.group_limit
end

-- From when a group may start so many units: 0 now, a date in ms, or math.huge when that takes more than time.
function groups.opens_at(ctx, g, units)
  local limit = groups.limit_of(ctx, g)
  if g.paused then return math.huge end
  if limit and limit.concurrency and g.active + math.min(units, limit.concurrency) > limit.concurrency then return math.huge end
  local date = g.frozen > ctx.now_ms and g.frozen or 0
  if g.yields then date = math.max(date, ctx.now_ms + limits.YIELD_MS) end
  if limit and limit.rate then date = math.max(date, limits.date(ctx, limit.rate, g.tat, units)) end
  return date
end

-- Put one group where it belongs. `next_units` are those of its first job, where they are known.
function groups.settle_one(ctx, g)
  groups.locate(ctx, g)
  local fair = limits.load(ctx)
  local v = g.express and fair.vx or fair.vt
  local date = groups.opens_at(ctx, g, g.next_units or 1)
  if g.waits == nil then g.waits = redis.call('EXISTS', ctx.base .. g.line) == 1 end
  if not g.waits then
    local last = limits.remembered(groups.limit_of(ctx, g), g.tat)
    date = math.max(g.frozen > ctx.now_ms and g.frozen or 0, last > ctx.now_us and last / 1000 or 0)
    if date > 0 then
      put(ctx, g, 'b', date)
    elseif not g.express and g.tag > v then
      put(ctx, g, 'v', g.tag)
    else
      -- An express group has a row, which remembers its tag.
      if not g.express or g.tag <= v then g.tag = 0 end
      put(ctx, g, false)
    end
  elseif date > 0 then
    put(ctx, g, 'b', date)
  else
    if g.place ~= 'r' and g.place ~= 'y' then ctx.added = ctx.added + 1 end
    g.tag = math.max(g.tag, v)
    if g.express then fair.express = true end
    put(ctx, g, g.express and 'y' or 'r', g.tag)
  end
end

-- Write the row of a group, and whether it is listed.
local function write(ctx, g)
  local listed = g.place == 'r' or g.place == 'y' or g.place == 'b'
  local has_row = g.paused or g.express or g.own or g.weight ~= 1 or g.active > 0 or g.parked > 0 or (g.awaited and g.waits) or g.place == 'b'
    or limits.remembered(groups.limit_of(ctx, g), g.tat) > ctx.now_us
  if has_row then
    redis.call('HSET', ctx.base .. 'G', g.name, encode_row(g))
  elseif g.had_row then
    redis.call('HDEL', ctx.base .. 'G', g.name)
  end
  local was_listed = g.had_row or g.placed == 'r' or g.placed == 'y' or g.placed == 'b'
  if (listed or has_row) and not was_listed then
    redis.call('ZADD', ctx.base .. 'U', 0, g.line)
  elseif was_listed and not (listed or has_row) then
    redis.call('ZREM', ctx.base .. 'U', g.line)
  end
  g.had_row, g.placed = has_row and true or false, g.place
end

-- Put all groups that this call has touched where they belong. What was gathered has been sent.
function groups.settle(ctx)
  local touched = ctx.touched
  ctx.touched = nil
  for _, g in pairs(touched) do
    groups.settle_one(ctx, g)
    write(ctx, g)
  end
end

-- Open what may run by its date. Answers whether there is more.
function groups.open_due(ctx)
  local due = redis.call('ZRANGEBYSCORE', ctx.base .. 'b', '-inf', ctx.now_us / 1000, 'LIMIT', 0, 128)
  for i = 1, #due do
    if byte(due[i]) == 1 then
      limits.touch(ctx, sub(due[i], 2))
    else
      groups.touch(ctx, due[i])
    end
  end
  limits.settle(ctx)
  return #due == 128
end

-- Forget the tags of idle groups that V has passed.
function groups.forget_idle(ctx)
  if redis.call('EXISTS', ctx.base .. 'v') == 0 then return end
  redis.call('ZREMRANGEBYSCORE', ctx.base .. 'v', '-inf', limits.load(ctx).vt)
end
