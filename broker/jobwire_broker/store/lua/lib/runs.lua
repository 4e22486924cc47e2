--- What is kept of bulk runs, so that everybody sees them and may stop them, whichever broker they run at.
--
-- B<number> is a hash. head: what its caller says of it when it begins, a jobwire.v1.BulkRun; begun, seen (when it was last heard of) and ended, in ms; done and
-- skipped: how many jobs; end: FINISHED, STOPPED, ABANDONED (its caller left), or '' while it goes on; by: who stopped it.
-- B is a sorted set of all numbers, score = begun. A record goes by itself; what is left of it here goes when room is needed.
local runs = { SILENCE_MS = 10000, MAX = 100 }
local KEEP_MS, INDEX_MS = 86400000, 7 * 86400000

-- The run of this number without its head; nil when there is none.
function runs.find(base, number)
  local found = redis.call('HMGET', base .. 'B' .. number, 'begun', 'seen', 'ended', 'end', 'done', 'skipped', 'by')
  if not found[1] then return nil end
  return { number = number, begun = tonumber(found[1]), seen = tonumber(found[2]), ended = tonumber(found[3]), ending = found[4], done = tonumber(found[5]),
    skipped = tonumber(found[6]), by = found[7] }
end

-- How it goes.
function runs.state(run, now_ms)
  if run.ending ~= '' then return run.ending end
  return now_ms - run.seen > runs.SILENCE_MS and 'ABANDONED' or 'RUNNING'
end

-- Write what has changed, and keep it for a day from now.
function runs.write(base, run, now_ms)
  local key = base .. 'B' .. run.number
  run.seen = now_ms
  redis.call('HSET', key, 'begun', run.begun, 'seen', run.seen, 'ended', run.ended, 'end', run.ending, 'done', run.done, 'skipped', run.skipped, 'by', run.by)
  redis.call('PEXPIRE', key, KEEP_MS)
end

-- Whether one more can be kept: of many, the oldest that goes on no more gives way.
local function has_room(base, now_ms)
  local index = base .. 'B'
  if redis.call('ZCARD', index) < runs.MAX then return true end
  local numbers = redis.call('ZRANGE', index, 0, -1)
  for i = 1, #numbers do
    local run = runs.find(base, numbers[i])
    if not run or runs.state(run, now_ms) ~= 'RUNNING' then
      redis.call('ZREM', index, numbers[i])
      redis.call('UNLINK', base .. 'B' .. numbers[i])
      return true
    end
  end
  return false
end

-- Make a run; nil when there is no room for it.
function runs.make(base, number, head, now_ms)
  if not has_room(base, now_ms) then return nil end
  local run = { number = number, begun = now_ms, ended = 0, ending = '', done = 0, skipped = 0, by = '' }
  redis.call('HSET', base .. 'B' .. number, 'head', head)
  redis.call('ZADD', base .. 'B', now_ms, number)
  redis.call('PEXPIRE', base .. 'B', INDEX_MS)
  return run
end
