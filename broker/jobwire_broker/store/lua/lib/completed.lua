--- The list `c` of COMPLETED jobs, the oldest first: its entries stand in the order of their revisions.
--
-- A job that is deleted leaves its entry there without the id: a hole. So nothing else moves, and a deletion looks through none of those that are kept. Holes go when
-- they have come to the old end. Field `holes` of the meta hash counts them.
local completed = { WINDOW = 128, HOLES_MAX = 4096 }

function completed.is_hole(entry)
  return #entry == END_ENTRY_SIZE
end

-- How many jobs are in the list.
function completed.count(ctx)
  return redis.call('LLEN', ctx.base .. 'c') - ctx.holes
end

-- How many entries have a lower revision than this one, whose job may be gone itself: a binary search.
function completed.before(ctx, revision)
  local key = ctx.base .. 'c'
  local low, high = 0, redis.call('LLEN', key)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if struct.unpack('>I8', redis.call('LINDEX', key, middle)) < revision then low = middle + 1 else high = middle end
  end
  return low
end

-- Make a hole of a job's entry. Jobs that are deleted together most often stand together, so the places of its neighbours are kept for the call.
function completed.cut(ctx, j)
  local key, entry = ctx.base .. 'c', end_entry(j, j.id)
  if not (ctx.places and ctx.places[entry]) then
    local first = completed.before(ctx, j.revision)
    local entries = redis.call('LRANGE', key, first, first + completed.WINDOW - 1)
    ctx.places = {}
    for i = 1, #entries do ctx.places[entries[i]] = first + i - 1 end
  end
  local at = ctx.places[entry]
  if not at then return end
  redis.call('LSET', key, at, end_entry(j, ''))
  ctx.holes = ctx.holes + 1
end

-- Drop the holes at the old end, about HOLES_MAX of them at most.
function completed.drop_holes(ctx)
  local key, dropped, count = ctx.base .. 'c', 0, 0
  while ctx.holes > 0 and dropped < completed.HOLES_MAX do
    local entries = redis.call('LRANGE', key, 0, completed.WINDOW - 1)
    count = 0
    while entries[count + 1] and completed.is_hole(entries[count + 1]) do count = count + 1 end
    if count == 0 then break end
    redis.call('LTRIM', key, count, -1)
    ctx.holes, dropped = ctx.holes - count, dropped + count
  end
  ctx.places = nil
end

-- The ends of the oldest jobs, at most `count`; fewer as well when more than HOLES_MAX holes are among them.
function completed.oldest_ends(ctx, count)
  completed.drop_holes(ctx)
  local entries, ends = redis.call('LRANGE', ctx.base .. 'c', 0, count + math.min(ctx.holes, completed.HOLES_MAX) - 1), {}
  for i = 1, #entries do
    if #ends < count and not completed.is_hole(entries[i]) then ends[#ends + 1] = struct.unpack('>I8', entries[i]) end
  end
  return ends
end
