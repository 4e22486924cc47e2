--- Delete the jobs that waited or were delayed when the first of several calls began, at most STEP in a call.
-- KEYS[1]  the queue's meta hash
-- ARGV     the number up to which to delete, 0 in the first call; index and cursor of the last answer ('' in the first call)
-- Returns  { count, the number up to which to delete, index and cursor to go on with: '' at the end }
-- Delayed jobs go first, then those that wait, in the order of lines.after: one that comes due meanwhile waits then, and is found there.
local STEP = 256

-- Whether a job that stands in an index now stood in one then. One that came due since, or was promoted, has changed, but not run.
local function was_there(j, newest)
  return j.revision <= newest or (j.created <= newest and j.token == 0 and j.ended == END.NONE)
end

local function purge(keys, argv)
  local ctx = open(keys[1])
  local newest, index, cursor = tonumber(argv[1]), argv[2] == '' and 'd' or argv[2], argv[3]
  if newest == 0 then newest = ctx.n end
  local key = ctx.base .. index
  local from = cursor == '' and 0 or rank_after(key, struct.unpack('>d', cursor), string.sub(cursor, 9))
  local found, ids, count = redis.call('ZRANGE', key, from, from + STEP - 1, 'WITHSCORES'), {}, 0
  for i = 1, #found, 2 do ids[#ids + 1] = string.sub(found[i], 9) end
  fetch(ctx, ids)
  for i = 1, #ids do
    local j = find(ctx, ids[i])
    if j and was_there(j, newest) then
      remove(ctx, j)
      count = count + 1
    end
  end
  close(ctx)
  if #ids == STEP then return { count, newest, index, struct.pack('>d', tonumber(found[#found])) .. found[#found - 1] } end
  return { count, newest, index == 'd' and 'o' or lines.after(ctx, index) or '', '' }
end

register('purge', purge, { 'allow-oom' })
