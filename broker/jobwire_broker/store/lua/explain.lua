--- Why a job does not run, and what a queue is short of. What only reads.
-- KEYS[1]  the queue's meta hash
-- ARGV     of explain: id; of oldest: none
-- Returns  what stands at each function
--
-- No cost grows with what waits: a place is a rank, and the oldest are found by going from one priority, or one session, to the next.
local PRIORITIES_MAX, HOLDERS_MAX = 100, 1000

-- What of a call's context reading needs.
local function look(key)
  local base = string.sub(key, 1, -2)
  return { base = base, record_key = base .. 'j' }
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

-- How many jobs go before one that waits, and how many of them by their priority. -1 when it waits in no line.
local function before(ctx, j, id)
  if j.state ~= STATE.WAITING then return -1, 0 end
  local key = ctx.base .. (has_flag(j, FLAG_ALONE) and 'o' or 'w')
  local rank = redis.call('ZRANK', key, place(j, id))
  if not rank then return -1, 0 end
  return rank, redis.call('ZCOUNT', key, '-inf', '(' .. j.priority)
end

-- What is left on the pulse clock until a deadline; -1 when there is none.
local function left(ctx, clock, member)
  local deadline = tonumber(redis.call('ZSCORE', ctx.base .. 't', member))
  return deadline and math.max(0, math.floor(deadline - clock)) or -1
end

-- ARGV id. Returns { record without payload ('' when gone), state in the ring, now (µs), paused, jobs before, those by priority, session that holds it (''),
-- its lease left (ms), the grace of its cancel left (ms), crew }.
local function explain(keys, argv)
  local ctx, id = look(keys[1]), argv[1]
  local time = redis.call('TIME')
  local now_us = time[1] * 1000000 + time[2]
  local record = records_of(ctx, { id })[1]
  local j = decode(record)
  if not j then return { '', ring_get(ctx, id) or 0, now_us, 0, -1, 0, '', -1, -1, {} } end
  local meta = redis.call('HMGET', keys[1], 'paused', 'clock', 'solo')
  local clock = tonumber(meta[2]) or 0
  local jobs, by_priority = before(ctx, j, id)
  local holder, lease_left, cancel_left = '', -1, -1
  if j.state == STATE.ACTIVE then
    holder = redis.call('HGET', ctx.base .. 's', struct.pack('>I4', j.sid)) or ''
    lease_left = left(ctx, clock, 'S' .. holder)
    cancel_left = left(ctx, clock, 'J' .. number8(j.token) .. id)
  end
  return { rules.shown(ctx, brief(record)), 0, now_us, meta[1] == '1' and 1 or 0, jobs, by_priority, holder, lease_left, cancel_left, crew(ctx, meta[3] or '') }
end

local function older(oldest, number)
  return (oldest == 0 or number < oldest) and number or oldest
end

-- The lowest order in an index of what waits: that of the first job of each priority.
local function oldest_waiting(ctx, suffix, oldest)
  local from = '-inf'
  for _ = 1, PRIORITIES_MAX do
    local first = redis.call('ZRANGEBYSCORE', ctx.base .. suffix, from, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if #first == 0 then break end
    oldest = older(oldest, (struct.unpack('>I8', first[1])))
    from = '(' .. first[2]
  end
  return oldest
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

-- Returns { now (µs), since when the oldest waiting job waits (µs, 0: none), since when the oldest lease lasts (µs, 0: none), crew }.
local function oldest(keys)
  local ctx = look(keys[1])
  local time = redis.call('TIME')
  local waiting = oldest_waiting(ctx, 'o', oldest_waiting(ctx, 'w', 0))
  return { time[1] * 1000000 + time[2], waiting, oldest_active(ctx), crew(ctx, redis.call('HGET', keys[1], 'solo') or '') }
end

register('explain', explain, { 'no-writes' })
register('oldest', oldest, { 'no-writes' })
