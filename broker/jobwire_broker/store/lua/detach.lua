--- End a session that said goodbye: what it still holds goes back at its place, uncharged, and no loss is counted.
-- KEYS[1]  the queue's meta hash
-- ARGV     session, epoch
-- Returns  { OK | MORE | NO_SESSION | SESSION_MOVED }; after MORE the same call is to be made again
local function detach(keys, argv)
  local ctx = open(keys[1])
  local session, epoch = argv[1], tonumber(argv[2])
  local sid, row_epoch = session_row(ctx, session)
  if not sid then return { 'NO_SESSION' } end
  if row_epoch ~= epoch then return { 'SESSION_MOVED' } end
  local members = held_members(ctx, sid, PUT_BACK_MAX)
  local jobs = jobs_held(ctx, members)
  for i = 1, #jobs do put_back(ctx, jobs[i]) end
  flush(ctx)
  trim(ctx)
  local more = #members == PUT_BACK_MAX
  if not more then drop_session(ctx, session, sid) end
  ctx.changed = true
  close(ctx)
  return { more and 'MORE' or 'OK' }
end

register('detach', detach, { 'allow-oom' })
