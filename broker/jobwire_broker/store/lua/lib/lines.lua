--- The lines that waiting jobs stand in.
--
-- A plain job waits in `w`. One that has a group, units or required labels is flagged COUNTED when it is made, and waits in the line of its group, `l<group>`,
-- or in `l`. A job may be parked: taken out of its line because the limit of its job name is used up (`n<name>`), or because the session that it was offered to
-- lacks a label (`q`, labels behind their length, group). It keeps its place there, and goes back to it when the name opens, or when a session comes that has
-- the labels. The index `q` has all labels that have a line, and `Q<labels>` the groups that have one, by their turn (lib/choosing.lua).
-- `lw` of the meta hash counts who stands in lines l, n and q; while it is 0, and the queue has no limit, nothing here costs a plain job anything.
lines.UNPARK_MAX = 128
local RESCORE_MAX = 128

-- What of a job's sections its lease is judged by.
function lines.rules_of(j)
  local rules = j.rules
  if rules then return rules end
  rules = { group = '', units = 1, labels = '' }
  j.rules = rules
  if not has_flag(j, FLAG_COUNTED) then return rules end
  local body = j.body
  each_section(body, function(tag, first, last)
    if tag == TAG.GROUP then
      rules.group = sub(body, first + 5, last)
    elseif tag == TAG.UNITS then
      rules.units = struct.unpack('>I2', body, first + 5)
    elseif tag == TAG.REQUIRED_LABELS then
      rules.labels = sub(body, first + 5, last)
    end
  end)
  return rules
end

-- A job has got other contents.
function lines.mark(j)
  j.rules = nil
  if section(j.body, TAG.GROUP) or section(j.body, TAG.UNITS) or section(j.body, TAG.REQUIRED_LABELS) then set_flag(j, FLAG_COUNTED) end
end

function lines.job_name(j)
  return sub(j.body, 2, 1 + byte(j.body))
end

-- The key of the line in which a job waits when it is not parked.
function lines.suffix(j)
  if has_flag(j, FLAG_ALONE) then return 'o' end
  if not has_flag(j, FLAG_COUNTED) then return 'w' end
  local rules = lines.rules_of(j)
  if rules.group ~= '' then return 'l' .. rules.group end
  return (rules.units > 1 or rules.labels ~= '') and 'l' or 'w'
end

-- Where a job stands in its line. With ageing the date of its enqueue decides, moved by the ageing time for each step of priority: so it goes as if its priority
-- were one lower for each such time that it waits, and no job ever has to be moved for that.
function lines.score(ctx, priority, order)
  local ageing = ctx.policy.ageing
  return ageing and priority * ageing + math.floor(order / 1000) or priority
end

-- The index of jobs that wait which comes after one: those that go alone, plain ones, then the lines by name. nil after the last.
function lines.after(ctx, index)
  if index == 'o' then return 'w' end
  return redis.call('ZRANGEBYLEX', ctx.base .. 'U', index == 'w' and '-' or '(' .. index, '+', 'LIMIT', 0, 1)[1]
end

-- Put jobs of an index where the policy has them stand, from a cursor of ZSCAN on. Answers the next cursor, and how many were looked at.
local function rescore_some(ctx, index, cursor)
  local found = redis.call('ZSCAN', ctx.base .. index, cursor, 'COUNT', RESCORE_MAX)
  local ids = {}
  for i = 1, #found[2], 2 do ids[#ids + 1] = sub(found[2][i], 9) end
  local records = records_of(ctx, ids)
  for i = 1, #ids do
    local j = decode(records[i])
    if j then gather(ctx, 'ZADD ' .. index, lines.score(ctx, j.priority, j.order), found[2][2 * i - 1]) end
  end
  send_gathered(ctx)
  return found[1], #ids
end

-- The ageing is another now. Before a pulse sees it, it may be another once more.
function lines.unscore(ctx)
  set_meta(ctx, 'scored', '-1')
  set_meta(ctx, 'scoring', '')
end

-- The ageing was changed: let what waits go to the places that it has now, some of it in each call. `scored` is the ageing by which all stand where they do, and
-- `scoring` that to which they go, with the cursor and the index that were come to. Whatever enters a line meanwhile stands right. True when there is more.
function lines.rescore(ctx)
  local marks, now = redis.call('HMGET', ctx.meta, 'scored', 'scoring'), string.format('%.0f', ctx.policy.ageing or 0)
  if (marks[1] or '0') == now then return false end
  local target, cursor, index = string.match(marks[2] or '', '^(%d+) (%d+) (.+)$')
  if target ~= now then cursor, index = '0', 'o' end
  local looks = 0
  while index and looks < RESCORE_MAX do
    local seen
    cursor, seen = rescore_some(ctx, index, cursor)
    looks = looks + 1 + seen
    if cursor == '0' then index = lines.after(ctx, index) end
  end
  set_meta(ctx, 'scoring', index and now .. ' ' .. cursor .. ' ' .. index or '')
  if not index then set_meta(ctx, 'scored', now) end
  return index ~= nil
end

local function is_counted(suffix)
  return suffix ~= 'w' and suffix ~= 'o'
end

-- The line of those of a group that wait for a session with these labels.
function lines.labelled(rules)
  return 'q' .. pack('>I2', #rules.labels) .. rules.labels .. rules.group
end

-- Such a line is empty.
local function left_labelled(ctx, suffix)
  local last = 3 + struct.unpack('>I2', suffix, 2)
  local labels = sub(suffix, 4, last)
  redis.call('ZREM', ctx.base .. 'Q' .. labels, sub(suffix, last + 1))
  if redis.call('EXISTS', ctx.base .. 'Q' .. labels) == 0 then redis.call('ZREM', ctx.base .. 'q', labels) end
end

-- A job has left a line l, n or q.
local function left(ctx, suffix)
  ctx.lw = ctx.lw - 1
  local kind = sub(suffix, 1, 1)
  if kind == 'l' and suffix ~= 'l' then return groups.touch(ctx, sub(suffix, 2)) end
  if redis.call('EXISTS', ctx.base .. suffix) == 1 then return end
  redis.call('ZREM', ctx.base .. 'U', suffix)
  if kind == 'q' then left_labelled(ctx, suffix) end
  if kind == 'n' then limits.touch(ctx, sub(suffix, 2)) end
end

-- Take a member out of a line. Answers whether it was there.
function lines.remove(ctx, suffix, member)
  if redis.call('ZREM', ctx.base .. suffix, member) == 0 then return false end
  if is_counted(suffix) then left(ctx, suffix) end
  return true
end

-- One that was to go alone has gone another way: what has left it its room need not.
local function leave_room(ctx, j)
  local group, name = lines.rules_of(j).group, lines.job_name(j)
  if group ~= '' then groups.touch(ctx, group) end
  if ctx.policy.names and ctx.policy.names[name] then limits.touch(ctx, name) end
end

-- Take a waiting job out of wherever it stands. The room of its name may be kept for it.
function lines.depart(ctx, j)
  local suffix, member = lines.suffix(j), place(j, j.id)
  local names = ctx.policy.names
  if names and names[lines.job_name(j)] then limits.touch(ctx, lines.job_name(j)) end
  if ctx.lw == 0 then return gather(ctx, 'ZREM ' .. suffix, member) end
  if lines.remove(ctx, suffix, member) then
    if suffix == 'o' then leave_room(ctx, j) end
    return
  end
  local its = lines.rules_of(j)
  local is_parked = its.labels ~= '' and lines.remove(ctx, lines.labelled(its), member) or lines.remove(ctx, 'n' .. lines.job_name(j), member)
  if is_parked then groups.park(ctx, its.group, -1) end
end

-- Count a job that enters its line: whoever waits for work hears of it, unless its group is blocked.
local function entered(ctx, suffix)
  if not is_counted(suffix) then
    ctx.added = ctx.added + 1
    return
  end
  ctx.lw = ctx.lw + 1
  if suffix ~= 'l' then return groups.enter(ctx, sub(suffix, 2)) end
  ctx.added = ctx.added + 1
  gather(ctx, 'ZADD U', '0', suffix)
end

-- Put a job that waits into its line.
function lines.enter(ctx, j)
  local suffix = lines.suffix(j)
  gather(ctx, 'ZADD ' .. suffix, lines.score(ctx, j.priority, j.order), place(j, j.id))
  entered(ctx, suffix)
end

-- Move the first job of a line to a line n or q.
function lines.park(ctx, from, j, to)
  local member = place(j, j.id)
  redis.call('ZREM', ctx.base .. from, member)
  redis.call('ZADD', ctx.base .. to, lines.score(ctx, j.priority, j.order), member)
  redis.call('ZADD', ctx.base .. 'U', 0, to)
  ctx.lw = ctx.lw + 1
  if is_counted(from) then left(ctx, from) end
  groups.park(ctx, lines.rules_of(j).group, 1)
end

-- Let the first jobs of a line n or q go back to where they were, and note them in `back`. Answers how many did.
function lines.unpark(ctx, from, count, back)
  local found = redis.call('ZRANGE', ctx.base .. from, 0, math.min(count, lines.UNPARK_MAX) - 1)
  local ids = {}
  for i = 1, #found do ids[i] = sub(found[i], 9) end
  fetch(ctx, ids)
  for i = 1, #ids do
    local member, j = found[i], find(ctx, ids[i])
    redis.call('ZREM', ctx.base .. from, member)
    left(ctx, from)
    if j and j.state == STATE.WAITING then
      local suffix = lines.suffix(j)
      redis.call('ZADD', ctx.base .. suffix, lines.score(ctx, j.priority, j.order), member)
      entered(ctx, suffix)
      groups.park(ctx, lines.rules_of(j).group, -1)
      if back then back[#back + 1] = j end
    end
  end
  send_gathered(ctx)
  return #ids
end
