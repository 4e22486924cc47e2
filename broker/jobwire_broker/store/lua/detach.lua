--- End a session that said goodbye: what it still holds goes back at its place, uncharged, and no loss is counted.
-- KEYS[1]  the queue's meta hash
-- ARGV     session, epoch
-- Returns  { OK | NO_SESSION | SESSION_MOVED }
local function detach(keys, argv)
  local ctx = open(keys[1])
  local session, epoch = argv[1], tonumber(argv[2])
  local sid, row_epoch = session_row(ctx, session)
  if not sid then return { 'NO_SESSION' } end
  if row_epoch ~= epoch then return { 'SESSION_MOVED' } end
  local jobs = jobs_held(ctx, held_members(ctx, sid, 100000))
  for i = 1, #jobs do put_back(ctx, jobs[i]) end
  flush(ctx)
  trim(ctx)
  drop_session(ctx, session, sid)
  ctx.changed = true
  close(ctx)
  return { 'OK' }
end

register('detach', detach, { 'allow-oom' })
