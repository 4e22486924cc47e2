--- Why a job does not run, and what a queue is short of. What only reads.
-- KEYS[1]  the queue's meta hash
-- ARGV     of explain: id; of oldest: none; of oldest_in_lines: the line after which to begin
-- Returns  what stands at each function
--
-- No cost grows with what waits: a place is a rank, and the oldest are found by going from one priority, or one session, to the next. With ageing, jobs stand in
-- the order in which they go, and the first of them are looked at.
local PRIORITIES_MAX, AGEING_MAX, HOLDERS_MAX, LEASES_MAX = 100, 1000, 1000, 10000
-- How many lines one call looks at, and how many jobs in them, before it leaves the others to the next.
local LINES_MAX, LOOKS_MAX = 500, 2000

-- What of a call's context reading needs.
local function look(key)
  bind()
  local base, time = string.sub(key, 1, -2), redis.call('TIME')
  local now_us = time[1] * 1000000 + time[2]
  local meta = redis.call('HMGET', key, 'policy', 'lw')
  return { base = base, meta = key, record_key = base .. 'j', records = {}, jobs = {}, n = now_us, now_us = now_us, now_ms = math.floor(now_us / 1000),
    policy = policy_of(meta[1]),
    lw = tonumber(meta[2]) or 0 }
end

-- The sessions of the queue, as session, held count, 1 when it is kept for a job delivered alone or runs one, descriptor, session …
local function crew(ctx, solo)
  local rows = redis.call('HGETALL', ctx.base .. 's')
  local kept = redis.call('EXISTS', ctx.base .. 'o') == 1 and solo or ''
  local out = {}
  for i = 1, #rows, 2 do
    if #rows[i] == 16 then
      local sid, _, solo_token = struct.unpack(ROW, rows[i + 1])
      local p = #out
      out[p + 1], out[p + 2], out[p + 3] = rows[i], held_count(ctx, sid), (solo_token > 0 or rows[i] == kept) and 1 or 0
      out[p + 4] = string.sub(rows[i + 1], 17)
    end
  end
  return out
end

-- How many jobs of its line go before one that waits, and how many of them by their priority. -1 when it waits in no line.
local function before(ctx, j, id)
  if j.state ~= STATE.WAITING then return -1, 0 end
  local key = ctx.base .. lines.suffix(j)
  local rank = redis.call('ZRANK', key, place(j, id))
  if not rank then return -1, 0 end
  return rank, ctx.policy.ageing and 0 or redis.call('ZCOUNT', key, '-inf', '(' .. j.priority)
end

-- How many groups go before that of a job: all express ones and those with a lower tag.
local function groups_before(ctx, g)
  local express = redis.call('ZCARD', ctx.base .. 'y')
  if not g then
    if redis.call('EXISTS', ctx.base .. 'r') == 0 then return express end
    local fair = limits.load(ctx)
    return express + redis.call('ZCOUNT', ctx.base .. 'r', '-inf', '(' .. string.format('%.17g', math.max(fair.vt, fair.fw)))
  end
  groups.locate(ctx, g)
  if g.place == 'y' then return redis.call('ZRANK', ctx.base .. 'y', g.name) end
  return g.place == 'r' and express + redis.call('ZRANK', ctx.base .. 'r', g.name) or 0
end

-- Who holds leases of the queue, as session, count, session …
local function holders(ctx)
  local rows, out = redis.call('HGETALL', ctx.base .. 's'), {}
  for i = 1, #rows, 2 do
    local count = #rows[i] == 16 and held_count(ctx, (struct.unpack(ROW, rows[i + 1]))) or 0
    if count > 0 then out[#out + 1], out[#out + 2] = rows[i], count end
  end
  return out
end

-- Who holds jobs that fit, which have so many units in all, in the same form. Leases say nothing of their jobs, so records are read until all are found.
local function holders_where(ctx, units, fits)
  local counts, out, from = {}, {}, 0
  while units > 0 and from < LEASES_MAX do
    local members, ids = redis.call('ZRANGE', ctx.base .. 'a', from, from + FETCH_MAX - 1), {}
    for i = 1, #members do ids[i] = string.sub(members[i], 13) end
    local records = records_of(ctx, ids)
    for i = 1, #members do
      local j, sid = decode(records[i]), string.sub(members[i], 1, 4)
      if j and fits(j) then counts[sid], units = (counts[sid] or 0) + 1, units - lines.rules_of(j).units end
    end
    from = #members == FETCH_MAX and from + FETCH_MAX or LEASES_MAX
  end
  for sid, count in pairs(counts) do
    out[#out + 1], out[#out + 2] = redis.call('HGET', ctx.base .. 's', sid) or '', count
  end
  return out
end

local function date_text(date)
  return date == math.huge and 'inf' or string.format('%.0f', math.ceil(date))
end

local function has_labeled(ctx, required)
  local sids = redis.call('HKEYS', ctx.base .. 'M')
  for i = 1, #sids do
    if choosing.meets(ctx, struct.unpack('>I4', sids[i]), required) then return true end
  end
  return required == ''
end

-- From when a job name may start a job, as limits.name_opens_at. One that is parked behind another waits for the room of that one.
local function name_opens_at(ctx, j, id, limit, name)
  local row, units, line = limits.name(ctx, name), lines.rules_of(j).units, ctx.base .. 'n' .. name
  if redis.call('ZSCORE', line, place(j, id)) then
    local first = decode(records_of(ctx, { string.sub(redis.call('ZRANGE', line, 0, 0)[1], 9) })[1])
    if first then units = math.max(units, lines.rules_of(first).units) end
  end
  return limits.name_opens_at(ctx, limit, row, units)
end

-- For which jobs room is kept that one which waits could use, as 'queue', 'group' or 'name', id, units, 1 when it goes alone …
local function kept_for(ctx, j)
  local out = {}
  if j.state ~= STATE.WAITING then return out end
  local kept = choosing.kept_for(ctx, j)
  for _, what in ipairs({ 'queue', 'group', 'name' }) do
    local other, p = kept[what], #out
    if other then out[p + 1], out[p + 2], out[p + 3], out[p + 4] = what, other.id, lines.rules_of(other).units, has_flag(other, FLAG_ALONE) and 1 or 0 end
  end
  return out
end

-- What limits say of a job that waits or is delayed: from when its queue, its group and its name open (0 now, a date in ms, or inf), its group, whether that is
-- paused, who holds what is used up, how many groups go before, whether a session has the labels, for whom room is kept.
local function judged(ctx, j, id)
  local r, name = lines.rules_of(j), lines.job_name(j)
  limits.load(ctx).active = redis.call('ZCARD', ctx.base .. 'a')
  local g = r.group ~= '' and groups.get(ctx, r.group) or nil
  local limit = ctx.policy.names and ctx.policy.names[name]
  local queue_date, group_date = limits.opens_at(ctx, r.units), g and groups.opens_at(ctx, g, r.units) or 0
  local name_date = limit and name_opens_at(ctx, j, id, limit, name) or 0
  local found = {}
  if queue_date == math.huge then
    found = holders(ctx)
  elseif group_date == math.huge and not g.paused then
    found = holders_where(ctx, g.active, function(other) return lines.rules_of(other).group == r.group end)
  elseif name_date == math.huge then
    found = holders_where(ctx, limits.name(ctx, name).active, function(other) return lines.job_name(other) == name end)
  end
  return { date_text(queue_date), date_text(group_date), date_text(name_date), r.group, g and g.paused and 1 or 0, found,
    j.state == STATE.WAITING and groups_before(ctx, g) or 0, has_labeled(ctx, r.labels) and 1 or 0, kept_for(ctx, j) }
end

-- What is left on the pulse clock until a deadline; -1 when there is none.
local function left(ctx, clock, member)
  local deadline = tonumber(redis.call('ZSCORE', ctx.base .. 't', member))
  return deadline and math.max(0, math.floor(deadline - clock)) or -1
end

-- ARGV id. Returns { record without payload ('' when gone), state in the ring, now (µs), paused, jobs before, those by priority, session that holds it (''),
-- its lease left (ms), the grace of its cancel left (ms), crew, what limits say of it (above) }.
local function explain(keys, argv)
  local ctx, id = look(keys[1]), argv[1]
  local now_us = ctx.now_us
  local record = records_of(ctx, { id })[1]
  local j = decode(record)
  if j then j.id = id end
  if not j then return { '', ring_get(ctx, id) or 0, now_us, 0, -1, 0, '', -1, -1, {}, {} } end
  local meta = redis.call('HMGET', keys[1], 'paused', 'clock', 'solo')
  local clock = tonumber(meta[2]) or 0
  local jobs, by_priority = before(ctx, j, id)
  local holder, lease_left, cancel_left = '', -1, -1
  if j.state == STATE.ACTIVE then
    holder = redis.call('HGET', ctx.base .. 's', struct.pack('>I4', j.sid)) or ''
    lease_left = left(ctx, clock, 'S' .. holder)
    cancel_left = left(ctx, clock, 'J' .. number8(j.token) .. id)
  end
  return { rules.shown(ctx, brief(record)), 0, now_us, meta[1] == '1' and 1 or 0, jobs, by_priority, holder, lease_left, cancel_left, crew(ctx, meta[3] or ''),
    j.state < STATE.ACTIVE and judged(ctx, j, id) or {} }
end

local function older(oldest, number)
  return (oldest == 0 or number < oldest) and number or oldest
end

-- The lowest order among the first jobs of an index of what waits, and how many were looked at.
local function oldest_of_first(ctx, suffix, oldest)
  local members = redis.call('ZRANGE', ctx.base .. suffix, 0, AGEING_MAX - 1)
  for i = 1, #members do oldest = older(oldest, (struct.unpack('>I8', members[i]))) end
  return oldest, #members
end

-- The lowest order in an index of what waits: that of the first job of each priority; and how many were looked at.
local function oldest_waiting(ctx, suffix, oldest)
  if ctx.policy.ageing then return oldest_of_first(ctx, suffix, oldest) end
  local from = '-inf'
  for looks = 1, PRIORITIES_MAX do
    local first = redis.call('ZRANGEBYSCORE', ctx.base .. suffix, from, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if #first == 0 then return oldest, looks end
    oldest = older(oldest, (struct.unpack('>I8', first[1])))
    from = '(' .. first[2]
  end
  return oldest, PRIORITIES_MAX
end

-- The lowest order in the lines after this one, and the line after which there are more; '' at the end.
local function oldest_in(ctx, after, oldest)
  if ctx.lw == 0 then return oldest, '' end
  local found, looks, seen = redis.call('ZRANGEBYLEX', ctx.base .. 'U', '(' .. after, '+', 'LIMIT', 0, LINES_MAX), 0, nil
  for i = 1, #found do
    if looks >= LOOKS_MAX then return oldest, found[i - 1] end
    oldest, seen = oldest_waiting(ctx, found[i], oldest)
    looks = looks + seen
  end
  return oldest, #found == LINES_MAX and found[LINES_MAX] or ''
end

-- The lowest token among the leases: that of the first one of each session.
local function oldest_active(ctx)
  local oldest, from = 0, '-'
  for _ = 1, HOLDERS_MAX do
    local first = redis.call('ZRANGEBYLEX', ctx.base .. 'a', from, '+', 'LIMIT', 0, 1)
    if #first == 0 then break end
    local sid, token = struct.unpack('>I4I8', first[1])
    oldest = older(oldest, token)
    from = '[' .. struct.pack('>I4', sid + 1)
  end
  return oldest
end

-- Whether a job waits that could start if a worker had room: no limit of the queue holds all of them, and some stand in a line that is open.
local function is_open(ctx)
  if waiting_count(ctx) == 0 then return false end
  limits.load(ctx).active = redis.call('ZCARD', ctx.base .. 'a')
  if limits.opens_at(ctx, 1) > 0 then return false end
  return ctx.lw == 0 or redis.call('EXISTS', ctx.base .. 'w', ctx.base .. 'o', ctx.base .. 'l', ctx.base .. 'r', ctx.base .. 'y', ctx.base .. 'q') > 0
end

-- Returns { now (µs), since when the oldest waiting job waits (µs, 0: none), since when the oldest lease lasts (µs, 0: none), crew, 1 when a job waits that could
-- start if a worker had room, the line after which oldest_in_lines is to go on; '' when there are no more }.
local function oldest(keys)
  local ctx = look(keys[1])
  local waiting, after = oldest_in(ctx, '', (oldest_waiting(ctx, 'o', (oldest_waiting(ctx, 'w', 0)))))
  return { ctx.now_us, waiting, oldest_active(ctx), crew(ctx, redis.call('HGET', keys[1], 'solo') or ''), is_open(ctx) and 1 or 0, after }
end

-- Returns { since when the oldest waiting job of some lines waits, the line after which to go on }.
local function oldest_in_lines(keys, argv)
  return { oldest_in(look(keys[1]), argv[1], 0) }
end

register('explain', explain, { 'no-writes' })
register('oldest', oldest, { 'no-writes' })
register('oldest_in_lines', oldest_in_lines, { 'no-writes' })
