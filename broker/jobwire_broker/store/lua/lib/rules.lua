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

-- How many jobs were made and ended, as they were at some moments of the last minute or so: date in ms (6), made (8), ended (8) each, the latest last. The pulse
-- writes one down every ten seconds in which there were any: so to know how fast a queue moves costs no job anything.
do
  local RATES, RATE_SIZE, RATES_MAX, RATE_STEP_MS, MINUTE_MS = '>I6I8I8', 22, 8, 10000, 60000

  function rules.note_rates(ctx)
    if ctx.made_total + ctx.ended_total == 0 then return end
    local text = redis.call('HGET', ctx.meta, 'rates')
    if not text then return set_meta(ctx, 'rates', struct.pack(RATES, ctx.now_ms, 0, 0)) end
    local at, made, ended = struct.unpack(RATES, string.sub(text, -RATE_SIZE))
    if ctx.now_ms - at < RATE_STEP_MS or (made == ctx.made_total and ended == ctx.ended_total) then return end
    set_meta(ctx, 'rates', string.sub(text .. struct.pack(RATES, ctx.now_ms, ctx.made_total, ctx.ended_total), -RATE_SIZE * RATES_MAX))
  end

  -- Jobs made and ended per 1,000 s, over the last minute: since the latest moment that is a minute ago, else since the first one that is known.
  function rules.rates(text, made_total, ended_total, now_ms)
    local base_at, base_made, base_ended = now_ms, 0, 0
    for first = 1, #text, RATE_SIZE do
      local at, made, ended = struct.unpack(RATES, text, first)
      if first == 1 or now_ms - at >= MINUTE_MS then base_at, base_made, base_ended = at, made, ended end
    end
    -- Where two moments are far apart, nothing happened until shortly before the later one.
    local span_ms = math.max(MINUTE_MS, math.min(now_ms - base_at, MINUTE_MS + RATE_STEP_MS))
    local function rate(count) return math.floor(math.max(0, count) * 1000000 / span_ms + 0.5) end
    return rate(made_total - base_made), rate(ended_total - base_ended)
  end
end
