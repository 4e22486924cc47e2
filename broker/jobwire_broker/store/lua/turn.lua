--- Settle what workers say of their jobs, then lease the next ones to them.
-- KEYS[1]  the queue's meta hash
-- ARGV     item count; per item: kind (1) .. token (8) .. id, then as many arguments as its kind has (finishes.lua);
--          lease count; per lease: session, epoch, jobs, bytes
-- Returns  { '<word> <state>' per item, leases, waiting, seq, ms until leases may be asked for again (-1: nobody knows) }; a lease is { OK | NO_SESSION | SESSION_MOVED, id, token, record before the lease, id … }
local function turn(keys, argv)
  local ctx = open(keys[1])
  local ids, after = item_ids(argv, tonumber(argv[1]))
  fetch(ctx, ids)
  local answers = settle_all(ctx, argv, ids)
  flush(ctx)
  trim(ctx)
  local leases, opens_in = lease_all(ctx, argv, after)
  close(ctx)
  return { answers, leases, waiting_count(ctx), ctx.seq, opens_in }
end

register('turn', turn, { 'allow-oom' })
