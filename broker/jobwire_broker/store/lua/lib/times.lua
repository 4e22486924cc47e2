--- Rules of time: when a job that has not started expires, how long an attempt may take, and how long all of them.
--
-- Who uses none of them pays a test of a flag, or of a variable. FLAG_TIMED stands in the record of each job that has or had such a rule: of its own, from its
-- making on; from the policy, from its making (expiry) or its first lease (timeouts) on.
local times = {}

-- Whether the policy has a rule of time, so that no lease of the queue is a plain one.
function times.by_policy(ctx)
  local policy = ctx.policy
  return (policy.expires or policy.timeout or policy.total_timeout) ~= nil
end

-- The pulse clock as the next pulse will find it: `ctx.clock` is that of the last one, and a short time would be over before it began.
function times.clock(ctx)
  if not ctx.clock_now then
    local last = tonumber(redis.call('HGET', ctx.meta, 'last_pulse')) or ctx.now_ms
    ctx.clock_now = ctx.clock + math.max(0, math.min(ctx.now_ms - last, 2000))
  end
  return ctx.clock_now
end

-- The date in ms at which a job expires; nil when it never does. What was leased once, or put back by RetryJob, expires no more.
function times.expiry(ctx, j)
  if j.token > 0 or j.ended ~= END.NONE then return nil end
  local own, ms = section(j.body, TAG.EXPIRY), ctx.policy.expires
  if own then
    ms = struct.unpack('>I8', own, 2)
    if sub(own, 1, 1) == 'd' then return ms end
  end
  return ms and math.floor(j.order / 1000) + ms
end

-- Whether a job that waits is not to be delivered any more.
function times.has_expired(ctx, j)
  local date = times.expiry(ctx, j)
  return date and date <= ctx.now_ms
end

-- A number of ms in a section; else what the policy says; else nil.
function times.ms_of(j, tag, policy_ms)
  local own = section(j.body, tag)
  return own and struct.unpack('>I8', own) or policy_ms
end

-- A lease begins: set its deadlines. It is told by the table of the job as it was before.
function times.begin(ctx, j, token)
  gather(ctx, 'ZREM u', j.id)
  local timeout, total = times.ms_of(j, TAG.TIMEOUT, ctx.policy.timeout), times.ms_of(j, TAG.TOTAL_TIMEOUT, ctx.policy.total_timeout)
  if timeout then gather(ctx, 'ZADD t', times.clock(ctx) + timeout, 'A' .. number8(token) .. j.id) end
  if total and not section(j.body, TAG.FIRST_START) then
    j.body = with_section(j.body, TAG.FIRST_START, number8(times.clock(ctx)))
    gather(ctx, 'ZADD t', times.clock(ctx) + total, 'T' .. j.id)
  end
  if timeout or total then set_flag(j, FLAG_TIMED) end
end

-- A lease that was given up for lost goes on. What is left of its time is counted from its beginning, and a second at least.
function times.resume(ctx, j)
  local timeout = has_flag(j, FLAG_TIMED) and times.ms_of(j, TAG.TIMEOUT, ctx.policy.timeout)
  if not timeout then return end
  local left = math.max(timeout - math.floor((ctx.now_us - j.token) / 1000), 1000)
  gather(ctx, 'ZADD t', times.clock(ctx) + left, 'A' .. number8(j.token) .. j.id)
end

-- A lease ends.
function times.leave(ctx, j)
  if has_flag(j, FLAG_TIMED) then gather(ctx, 'ZREM t', 'A' .. number8(j.token) .. j.id) end
end

-- A job has got other contents.
function times.mark(j)
  if section(j.body, TAG.EXPIRY) or section(j.body, TAG.TIMEOUT) or section(j.body, TAG.TOTAL_TIMEOUT) then set_flag(j, FLAG_TIMED) end
end

-- A job enters an index: its expiry stands in `u` while it may expire, its last deadline in `t` until it ends.
function times.place(ctx, j)
  if not has_flag(j, FLAG_TIMED) then return end
  local date = j.state < STATE.ACTIVE and times.expiry(ctx, j)
  if date then
    gather(ctx, 'ZADD u', date, j.id)
  else
    gather(ctx, 'ZREM u', j.id)
  end
  if j.state >= STATE.COMPLETED then gather(ctx, 'ZREM t', 'T' .. j.id) end
end

-- A job is forgotten.
function times.forget(ctx, j)
  if not has_flag(j, FLAG_TIMED) then return end
  gather(ctx, 'ZREM u', j.id)
  gather(ctx, 'ZREM t', 'T' .. j.id)
end

-- An attempt was ended at its deadline: its worker is to be told.
function times.untold(ctx, j)
  redis.call('HSET', ctx.base .. 'T', number8(j.token) .. j.id, struct.pack('>I4', j.sid))
end
