--- Bulk runs as a whole: begin one, end one, read them. Their steps are in verbs.lua, since they act on jobs.
-- KEYS[1]  the queue's meta hash
-- ARGV     begin_run: number of the run (8 bytes), the last number given when its dry run began, head (lib/runs.lua)
--          end_run: number, FINISHED | ABANDONED | STOPPED, how many jobs it skipped ('' for as many as before), who stops it
--          runs: numbers; none for all, the one that began last first
-- Returns  begin_run: { OK | TOO_OLD | STOPPED | TOO_MANY, jobs done, who stopped it }
--          end_run: { OK | NOT_FOUND | FINISHED | STOPPED: as it had ended before, the run }
--          a run is { number, state, begun, ended (0 while it runs; of one that is ABANDONED, when it was last heard of), jobs done, skipped, who stopped it, head }

-- How long a dry run is good for.
local TOKEN_US = 3600000000

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function view(base, run, now_ms)
  local state = runs.state(run, now_ms)
  local ended = state == 'RUNNING' and 0 or run.ending == '' and run.seen or run.ended
  return { run.number, state, run.begun, ended, run.done, run.skipped, run.by, redis.call('HGET', base .. 'B' .. run.number, 'head') or '' }
end

local function begin_run(keys, argv)
  local base, number, now_us = string.sub(keys[1], 1, -2), argv[1], now()
  local now_ms = math.floor(now_us / 1000)
  local run = runs.find(base, number)
  if run and run.ending == 'STOPPED' then return { 'STOPPED', run.done, run.by } end
  if not run and now_us - tonumber(argv[2]) > TOKEN_US then return { 'TOO_OLD', 0, '' } end
  run = run or runs.make(base, number, argv[3], now_ms)
  if not run then return { 'TOO_MANY', 0, '' } end
  run.ending, run.ended = '', 0
  runs.write(base, run, now_ms)
  return { 'OK', run.done, '' }
end

local function end_run(keys, argv)
  local base, ending, now_ms = string.sub(keys[1], 1, -2), argv[2], math.floor(now() / 1000)
  local run = runs.find(base, argv[1])
  if not run then return { 'NOT_FOUND', {} } end
  local word = (run.ending == 'FINISHED' or run.ending == 'STOPPED') and run.ending or 'OK'
  if word == 'OK' then
    run.ending, run.ended, run.by, run.skipped = ending, now_ms, argv[4], tonumber(argv[3]) or run.skipped
    runs.write(base, run, now_ms)
  end
  return { word, view(base, run, now_ms) }
end

local function list_runs(keys, argv)
  local base, now_ms = string.sub(keys[1], 1, -2), math.floor(now() / 1000)
  local numbers, found = #argv > 0 and argv or redis.call('ZREVRANGE', base .. 'B', 0, -1), {}
  for i = 1, #numbers do
    local run = runs.find(base, numbers[i])
    if run then found[#found + 1] = view(base, run, now_ms) end
  end
  return found
end

register('begin_run', begin_run, { 'allow-oom' })
register('end_run', end_run, { 'allow-oom' })
register('runs', list_runs, { 'no-writes' })
