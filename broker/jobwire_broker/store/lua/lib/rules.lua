--- What the policy of a queue says where a job says nothing.
local rules = {}

-- How many times a job may run.
function rules.attempts(ctx, j)
  return j.attempts > 0 and j.attempts or ctx.policy.attempts or 3
end

-- A record as it leaves the store to be shown: with the attempts that hold for it. `ctx` may be that of a call that only reads.
function rules.shown(ctx, record)
  if string.sub(record, 47, 48) ~= '\0\0' then return record end
  if not ctx.attempts2 then
    local policy = ctx.policy or policy_of(redis.call('HGET', ctx.base .. 'm', 'policy'))
    ctx.attempts2 = struct.pack('>I2', policy.attempts or 3)
  end
  return string.sub(record, 1, 46) .. ctx.attempts2 .. string.sub(record, 49)
end

-- The waits between attempts: base in ms, factor, the most in ms, jitter; or a list of waits in ms and jitter.
function rules.backoff(ctx)
  local given = ctx.policy.backoff or NO_POLICY
  return given.base or 2000, (given.factor or 2000) / 1000, given.max or 86400000, (given.jitter or 1000) / 10000, given.delays
end
