--- The rules of groups, and what groups there are.
-- KEYS[1]  the queue's meta hash
-- ARGV     set_group: group; then pairs: paused 0|1, express 0|1, weight, limit '' | concurrency count period burst (0 for what there is none of), thaw 1
--          groups: the group after which the page begins, and how many; group: its name
-- Returns  a group is { group, waiting, units leased, paused, express, weight, has own limit, concurrency, count, period in ms, burst, limited until in ms (0: it is
--          not) }, with weight and dates as text

local function view(ctx, name)
  local g = groups.decode(name, redis.call('HGET', ctx.base .. 'G', name))
  local own, date = g.own or {}, 0
  local rate = own.rate or {}
  local blocked = tonumber(redis.call('ZSCORE', ctx.base .. 'b', name))
  if blocked and blocked < math.huge then date = math.max(blocked, g.frozen) elseif g.frozen > ctx.now_ms then date = g.frozen end
  return { name, redis.call('ZCARD', ctx.base .. g.line) + g.parked, g.active, g.paused and 1 or 0, g.express and 1 or 0, string.format('%.17g', g.weight), g.own and 1 or 0,
    own.concurrency or 0, rate.count or 0, rate.period or 0, rate.burst or 1, string.format('%.0f', date > ctx.now_ms and math.ceil(date) or 0) }
end

local function look(key)
  bind()
  local time = redis.call('TIME')
  return { base = string.sub(key, 1, -2), now_ms = math.floor(time[1] * 1000 + time[2] / 1000) }
end

local function read_limit(text)
  if text == '' then return nil end
  local concurrency, count, period, burst = string.match(text, '^(%d+) (%d+) (%d+) (%d+)$')
  local own = {}
  if tonumber(concurrency) > 0 then own.concurrency = tonumber(concurrency) end
  if tonumber(count) > 0 then own.rate = { count = tonumber(count), period = tonumber(period), burst = tonumber(burst) } end
  return own
end

local SET = {
  paused = function(_, g, value) g.paused = value == '1' end,
  weight = function(_, g, value) g.weight = tonumber(value) end,
  limit = function(_, g, value) g.own = read_limit(value) end,
  thaw = function(_, g) g.frozen = 0 end,
  express = function(ctx, g, value)
    -- Its tag was in another time.
    if (value == '1') ~= (g.express or false) then g.tag = 0 end
    g.express = value == '1'
  end,
}

local function set_group(keys, argv)
  local ctx = open(keys[1])
  local g = groups.touch(ctx, argv[1])
  groups.locate(ctx, g)
  for i = 2, #argv, 2 do SET[argv[i]](ctx, g, argv[i + 1]) end
  flush(ctx)
  if waiting_count(ctx) > 0 then ctx.wake = 'work' end
  ctx.changed = true
  close(ctx)
  return view(ctx, argv[1])
end

local function group(keys, argv)
  return view(look(keys[1]), argv[1])
end

local function list_groups(keys, argv)
  local ctx = look(keys[1])
  local from = argv[1] == '' and '(l' or '(l' .. argv[1]
  local found = redis.call('ZRANGEBYLEX', ctx.base .. 'U', from, '(m', 'LIMIT', 0, tonumber(argv[2]))
  local out = {}
  for i = 1, #found do out[i] = view(ctx, string.sub(found[i], 2)) end
  return out
end

register('set_group', set_group, { 'allow-oom' })
register('group', group, { 'no-writes' })
register('groups', list_groups, { 'no-writes' })
