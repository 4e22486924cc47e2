--- Set the policy of a queue, and whether it is paused.
-- KEYS[1]  the queue's meta hash
-- ARGV     version of the policy that this one takes the place of (0: there is none); its JSON text; 1 pause, 0 resume, '' neither
-- Returns  { OK | CHANGED, the text that holds }. CHANGED: another call came first, and nothing was done.
local function policy(keys, argv)
  local ctx = open(keys[1])
  if (ctx.policy.v or 0) ~= tonumber(argv[1]) then return { 'CHANGED', redis.call('HGET', ctx.meta, 'policy') or '' } end
  local ageing = ctx.policy.ageing
  -- Raises when the text is no JSON: before the first write.
  ctx.policy = policy_of(argv[2])
  if ctx.policy.ageing ~= ageing then lines.unscore(ctx) end
  set_meta(ctx, 'policy', argv[2])
  if argv[3] ~= '' then set_meta(ctx, 'paused', argv[3]) end
  ctx.changed, ctx.wake = true, 'policy'
  close(ctx)
  return { 'OK', argv[2] }
end

register('policy', policy, { 'allow-oom' })
