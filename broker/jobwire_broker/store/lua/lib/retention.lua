--- How long ended jobs are kept: by the queue's policy, per final state; or by the job itself.
--
-- A job with a retention of its own (section 12, FLAG_KEPT) stands in indexes of its own, so that it costs others nothing:
--   K5 … K8  zsets by state, score = revision at the end, member = id: beside c, f, x and e
--   K        zset, score = when it is to be forgotten in ms, member = state (1) .. id
-- With a retention of 0 it stands nowhere: it is forgotten at its end.
local retention = {
  DEFAULTS = {
    [STATE.COMPLETED] = { count = 1000, age = DAY_MS },
    [STATE.FAILED] = { count = 10000, age = 30 * DAY_MS },
    [STATE.CANCELLED] = { count = 1000, age = DAY_MS },
    [STATE.EXPIRED] = { count = 1000, age = DAY_MS },
  },
  NAMES = { [STATE.COMPLETED] = '5', [STATE.FAILED] = '6', [STATE.CANCELLED] = '7', [STATE.EXPIRED] = '8' },
  STEP = 256,
}

-- How many jobs of a state the queue keeps, and for how many ms those that say nothing for themselves.
function retention.bounds(ctx, state)
  local default, given = retention.DEFAULTS[state], (ctx.policy.keep or NO_POLICY)[retention.NAMES[state]] or NO_POLICY
  return given.count or default.count, given.age or default.age
end

-- How long a job says that it is to be kept; nil when it says nothing.
function retention.own(j)
  if not has_flag(j, FLAG_KEPT) then return nil end
  local own = section(j.body, TAG.RETENTION)
  return own and (struct.unpack('>I8', own))
end

function retention.key(ctx, state)
  return ctx.base .. 'K' .. retention.NAMES[state]
end

-- Put an ended job into the indexes of those that say for themselves how long they are kept.
function retention.enter(ctx, j, own_ms)
  local ended_us = j.state == STATE.FAILED and failures.ended_at(j) or j.revision
  gather(ctx, 'ZADD K' .. retention.NAMES[j.state], ended_us, j.id)
  gather(ctx, 'ZADD K', math.floor(ended_us / 1000) + own_ms, string.char(j.state) .. j.id)
end

function retention.leave(ctx, j)
  gather(ctx, 'ZREM K' .. retention.NAMES[j.state], j.id)
  gather(ctx, 'ZREM K', string.char(j.state) .. j.id)
end

-- How many of the `count` oldest jobs of a state stand in the index of their own: `oldest` are the ends of the others, the oldest first.
function retention.share(ctx, state, count, oldest)
  local own = redis.call('ZRANGE', retention.key(ctx, state), 0, count - 1, 'WITHSCORES')
  local taken = 0
  for i = 1, count do
    local mine, other = tonumber(own[2 * taken + 2]), oldest[i - taken]
    if not mine and not other then break end
    if mine and (not other or mine < other) then taken = taken + 1 end
  end
  return taken
end
