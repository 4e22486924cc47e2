--- Settle what workers say of their jobs, then lease the next ones to them.
-- KEYS[1]  the queue's meta hash
-- ARGV     item count; per item: kind, id, token, three arguments (finishes.lua);
--          lease count; per lease: session, epoch, jobs, bytes
-- Returns  { word, state, word, state … per item, leases, waiting, seq }; a lease is { OK | NO_SESSION | SESSION_MOVED, id, token, record before the lease, id … }

-- Which argument of an item must be a number beside its token.
local NUMBER_AT = { C = 2, R = 2, X = 2, L = 2, F = 5, S = 3, P = 3, E = 3 }

-- Raises before the first write: a raised error does not roll back.
local function check_items(argv, count)
  for i = 1, count do
    local p = 6 * i - 4
    local at = NUMBER_AT[argv[p]]
    if not (at and tonumber(argv[p + 2]) and tonumber(argv[p + at])) then error('item ' .. i .. ' is malformed') end
  end
end

local function turn(keys, argv)
  local ctx = open(keys[1])
  local count = tonumber(argv[1])
  check_items(argv, count)
  local answers = {}
  for i = 1, count do
    local p = 6 * i - 4
    answers[2 * i - 1], answers[2 * i] = settle(ctx, argv[p], argv[p + 1], tonumber(argv[p + 2]), argv[p + 3], argv[p + 4], argv[p + 5])
  end
  flush(ctx)
  trim(ctx)
  local leases = lease_all(ctx, argv, 2 + 6 * count)
  close(ctx)
  return { answers, leases, waiting_count(ctx), ctx.seq }
end

register('turn', turn, { 'allow-oom' })
