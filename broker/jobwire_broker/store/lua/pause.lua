--- Stop or start the delivery of a queue's jobs. Nothing is moved.
-- KEYS[1]  the queue's meta hash
-- ARGV     1 pause, 0 resume
-- Returns  { OK }
local function pause(keys, argv)
  local ctx = open(keys[1])
  set_meta(ctx, 'paused', argv[1])
  ctx.changed = true
  if argv[1] == '0' then ctx.wake = 'work' end
  close(ctx)
  return { 'OK' }
end

register('pause', pause, { 'allow-oom' })
