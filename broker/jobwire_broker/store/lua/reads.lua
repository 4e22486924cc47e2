--- What only reads.

-- What of a call's context reading needs.
local function look(key)
  local base = string.sub(key, 1, -2)
  return { base = base, record_key = base .. 'j', payload_key = base .. 'p', lw = 0 }
end

-- How many of these jobs, from the first on, one call reads: their records may hold results of 1 MiB each.
local READ_BYTES = 1048576
local function bounded(ctx, ids)
  local size = 0
  for i = 1, #ids do
    size = size + redis.call('STRLEN', ctx.record_key .. ids[i])
    if size > READ_BYTES and i > 1 then return i - 1 end
  end
  return #ids
end

-- ARGV ids. Returns per id { record without payload ('' when gone), state, revision in the ring }, for as many of the first as one call reads.
local function get(keys, argv)
  local ctx, answers = look(keys[1]), {}
  local records = records_of(ctx, { unpack(argv, 1, bounded(ctx, argv)) })
  for i = 1, #records do
    if decode(records[i]) then
      answers[i] = { rules.shown(ctx, brief(records[i])), 0, 0 }
    else
      local state, _, revision = ring_get(ctx, argv[i])
      answers[i] = { '', state or 0, revision or 0 }
    end
  end
  return answers
end

-- ARGV id. Returns { record ('' when gone), state, revision in the ring, descriptor of the session that holds it (''), attempts before the last (history.lua), and
-- of each session that ran it: sid (4), label }.
local function inspect(keys, argv)
  local ctx, id = look(keys[1]), argv[1]
  bind()
  local record = records_of(ctx, { id })[1]
  local j = decode(record)
  local answer = { '', 0, 0, '' }
  if j then
    if has_flag(j, FLAG_APART) then record = record .. payload_apart(ctx, id) end
    answer[1] = rules.shown(ctx, record)
    local session = j.state == STATE.ACTIVE and redis.call('HGET', ctx.base .. 's', struct.pack('>I4', j.sid))
    local row = session and redis.call('HGET', ctx.base .. 's', session)
    if row then answer[4] = string.sub(row, 17) end
  else
    local state, _, revision = ring_get(ctx, id)
    if state then answer[2], answer[3] = state, revision end
  end
  local past = j and has_flag(j, FLAG_KEPT) and redis.call('GET', ctx.base .. 'h' .. id) or ''
  answer[5] = past
  local sids = j and { [struct.pack('>I4', j.sid)] = true } or {}
  history.each(past, function(first) sids[sub(past, first + 16, first + 19)] = true end)
  for sid in pairs(sids) do
    local session = redis.call('HGET', ctx.base .. 's', sid)
    local row = session and redis.call('HGET', ctx.base .. 's', session)
    local label = row and history.label_of(sub(row, 17)) or redis.call('HGET', ctx.base .. 'S', sid)
    if label then answer[#answer + 1], answer[#answer + 2] = sid, label end
  end
  return answer
end

-- The records of these jobs, without payloads and results, as id, record, id, record …
local function list_entries(ctx, ids)
  local records, out = records_of(ctx, ids), {}
  for i = 1, #ids do
    -- Of what was deleted meanwhile, or long ago (lib/completed.lua), there is none.
    if decode(records[i]) then
      out[#out + 1] = ids[i]
      out[#out + 1] = rules.shown(ctx, list_entry(records[i]))
    end
  end
  return out
end

-- The last members of a page, as ids with the cursor of the next page ('' when it was the last).
local function list_queued(ctx, suffix, cursor, limit)
  local key = ctx.base .. suffix
  local from = cursor == '' and 0 or rank_after(key, struct.unpack('>d', cursor), string.sub(cursor, 9))
  local found = redis.call('ZRANGE', key, from, from + limit - 1, 'WITHSCORES')
  local ids = {}
  for i = 1, #found, 2 do ids[#ids + 1] = string.sub(found[i], 9) end
  if #ids < limit then return ids, '' end
  return ids, struct.pack('>d', tonumber(found[#found])) .. found[#found - 1]
end

-- The line after this one, or the first; with a group, the lines of other groups are left out.
local LINES_MAX = 200
local function line_after(ctx, line, group)
  local from = line and '(' .. line or '-'
  if group ~= '' and not line then
    from = '[l' .. group
  elseif group ~= '' and string.sub(line, 1, 1) == 'l' then
    -- The lines of jobs that are parked come after those of all groups.
    from = '[m'
  end
  local found = redis.call('ZRANGEBYLEX', ctx.base .. 'U', from, '+', 'LIMIT', 0, 1)[1]
  if found and group ~= '' and string.sub(found, 1, 1) == 'l' and found ~= 'l' .. group then return line_after(ctx, found, group) end
  return found
end

-- What waits in lines l, n and q, line by line. The cursor is a line, with its length (2) before it, and the place in it; '' there when all of it is passed.
local function list_lines(ctx, group, cursor, limit)
  local line, at, ids = nil, '', {}
  if cursor ~= '' then
    local size = struct.unpack('>I2', cursor)
    line, at = string.sub(cursor, 3, 2 + size), string.sub(cursor, 3 + size)
  end
  for _ = 1, LINES_MAX do
    if at == '' then
      line = line_after(ctx, line, group)
      if not line then return ids, '' end
    end
    local found
    found, at = list_queued(ctx, line, at, limit - #ids)
    for i = 1, #found do ids[#ids + 1] = found[i] end
    if #ids >= limit then break end
  end
  return ids, struct.pack('>I2', #line) .. line .. at
end

local function list_active(ctx, cursor, limit)
  local members = redis.call('ZRANGEBYLEX', ctx.base .. 'a', cursor == '' and '-' or '(' .. cursor, '+', 'LIMIT', 0, limit)
  local ids = {}
  for i = 1, #members do ids[i] = string.sub(members[i], 13) end
  return ids, #members == limit and members[limit] or ''
end

-- A page of COMPLETED jobs: ids, and when each ended, which is the cursor as well. A hole is an entry with an empty id.
local function completed_page(ctx, cursor, limit, is_upward)
  local key, ids, ends = ctx.base .. 'c', {}, {}
  local entries
  if is_upward then
    local first = cursor == '' and 0 or completed.before(ctx, tonumber(cursor) + 1)
    entries = redis.call('LRANGE', key, first, first + limit - 1)
  else
    local behind = completed.before(ctx, cursor ~= '' and tonumber(cursor) or math.huge)
    entries = behind == 0 and {} or redis.call('LRANGE', key, math.max(0, behind - limit), behind - 1)
  end
  for i = 1, #entries do
    local at = is_upward and i or #entries + 1 - i
    ids[at], ends[at] = string.sub(entries[i], END_ENTRY_SIZE + 1), (struct.unpack('>I8', entries[i]))
  end
  return ids, ends
end

-- The same of an index that is a sorted set.
local function ended_page(key, cursor, limit, is_upward)
  local found
  if is_upward then
    found = redis.call('ZRANGEBYSCORE', key, cursor == '' and '-inf' or '(' .. cursor, '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
  else
    found = redis.call('ZREVRANGEBYSCORE', key, cursor == '' and '+inf' or '(' .. cursor, '-inf', 'WITHSCORES', 'LIMIT', 0, limit)
  end
  local ids, ends = {}, {}
  for i = 1, #found, 2 do ids[#ids + 1], ends[#ends + 1] = found[i], tonumber(found[i + 1]) end
  return ids, ends
end

-- Two pages as one.
local function merged(ids, ends, other_ids, other_ends, limit, is_upward)
  local all_ids, all_ends, a, b = {}, {}, 1, 1
  while #all_ids < limit and (ids[a] or other_ids[b]) do
    if ids[a] and (not other_ids[b] or (ends[a] < other_ends[b]) == is_upward) then
      all_ids[#all_ids + 1], all_ends[#all_ends + 1], a = ids[a], ends[a], a + 1
    else
      all_ids[#all_ids + 1], all_ends[#all_ends + 1], b = other_ids[b], other_ends[b], b + 1
    end
  end
  return all_ids, all_ends
end

-- Jobs of a final state, by when they ended.
local ENDED = { c = STATE.COMPLETED, f = STATE.FAILED, x = STATE.CANCELLED, e = STATE.EXPIRED }
local function list_ended(ctx, suffix, cursor, limit, is_upward)
  local ids, ends
  if suffix == 'c' then
    ids, ends = completed_page(ctx, cursor, limit, is_upward)
  else
    ids, ends = ended_page(ctx.base .. suffix, cursor, limit, is_upward)
  end
  local own_ids, own_ends = ended_page(retention.key(ctx, ENDED[suffix]), cursor, limit, is_upward)
  if #own_ids > 0 then ids, ends = merged(ids, ends, own_ids, own_ends, limit, is_upward) end
  if #ids < limit then return ids, '' end
  return ids, string.format('%.0f', ends[limit])
end

-- The FAILED jobs of one fingerprint, in `D` or, resolved ones alone, in `R`. The cursor is the last member of a page.
local function list_alike(ctx, suffix, fingerprint, cursor, limit, is_upward)
  local first, last = failures.range(fingerprint)
  local members
  if is_upward then
    members = redis.call('ZRANGEBYLEX', ctx.base .. suffix, cursor == '' and first or '(' .. cursor, last, 'LIMIT', 0, limit)
  else
    members = redis.call('ZREVRANGEBYLEX', ctx.base .. suffix, cursor == '' and last or '(' .. cursor, first, 'LIMIT', 0, limit)
  end
  local ids = {}
  for i = 1, #members do ids[i] = string.sub(members[i], 17) end
  return ids, #members == limit and members[limit] or ''
end

-- The first ids of an index behind a cursor, and the cursor of the next page ('' when it was the last).
local function page(ctx, index, cursor, limit, is_upward)
  local suffix, rest = string.sub(index, 1, 1), string.sub(index, 2)
  if suffix == 'w' or suffix == 'd' or suffix == 'o' then return list_queued(ctx, suffix, cursor, limit) end
  if suffix == 'U' then return list_lines(ctx, rest, cursor, limit) end
  if suffix == 'a' then return list_active(ctx, cursor, limit) end
  if suffix == 'D' or suffix == 'R' then return list_alike(ctx, suffix, rest, cursor, limit, is_upward) end
  return list_ended(ctx, suffix, cursor, limit, is_upward)
end

-- ARGV suffix of the index ('D' and 'R': with a fingerprint behind it; 'U': with a group, or none), cursor ('' for the first page), limit, 1 when what has ended is to come oldest first.
-- Returns { cursor of the next page, id, record, id, record … }, less than the limit where the records are long.
local function list(keys, argv)
  local ctx = look(keys[1])
  local index, cursor, is_upward = argv[1], argv[2], argv[4] == '1'
  local ids, next_cursor = page(ctx, index, cursor, tonumber(argv[3]), is_upward)
  local count = bounded(ctx, ids)
  if count < #ids then ids, next_cursor = page(ctx, index, cursor, count, is_upward) end
  local out = list_entries(ctx, ids)
  table.insert(out, 1, next_cursor)
  return out
end

-- Returns { waiting, active, delayed, completed, failed, cancelled, expired, completed_total, failed_total, paused, sessions, seq, the policy's text, jobs made and ended
-- per 1,000 s }.
local function stats(keys)
  local ctx = look(keys[1])
  local function card(suffix) return redis.call('ZCARD', ctx.base .. suffix) end
  local meta = redis.call('HMGET', keys[1], 'completed_total', 'failed_total', 'paused', 'seq', 'policy', 'lw', 'made_total', 'ended_total', 'rates', 'holes',
    'started', 'started_late')
  ctx.lw, ctx.holes = tonumber(meta[6]) or 0, tonumber(meta[10]) or 0
  local time = redis.call('TIME')
  local rate_in, rate_out = rules.rates(meta[9] or '', tonumber(meta[7]) or 0, tonumber(meta[8]) or 0, time[1] * 1000 + math.floor(time[2] / 1000))
  local done, failed, cancelled, expired = completed.count(ctx) + card('K5'), card('f') + card('K6'), card('x') + card('K7'), card('e') + card('K8')
  return { waiting_count(ctx), card('a'), card('d'), done, failed, cancelled, expired, tonumber(meta[1]) or 0, tonumber(meta[2]) or 0,
    tonumber(meta[3]) or 0, redis.call('HLEN', ctx.base .. 's') / 3, tonumber(meta[4]) or 0, meta[5] or '', rate_in, rate_out,
    tonumber(meta[11]) or 0, tonumber(meta[12]) or 0 }
end

-- Returns session, held count, descriptor, session … of all sessions of the queue.
local function sessions(keys)
  local ctx = look(keys[1])
  local rows = redis.call('HGETALL', ctx.base .. 's')
  local out = {}
  for i = 1, #rows, 2 do
    if #rows[i] == 16 then
      local p = #out
      out[p + 1], out[p + 2], out[p + 3] = rows[i], held_count(ctx, struct.unpack('>I4', rows[i + 1])), string.sub(rows[i + 1], 17)
    end
  end
  return out
end

-- ARGV numbers of sessions, as they stand in records. Returns the descriptor of each ('' when it is gone).
local function holders(keys, argv)
  local key = string.sub(keys[1], 1, -2) .. 's'
  local out = {}
  for i = 1, #argv do
    local session = redis.call('HGET', key, struct.pack('>I4', tonumber(argv[i])))
    local row = session and redis.call('HGET', key, session)
    out[i] = row and string.sub(row, 17) or ''
  end
  return out
end

register('get', get, { 'no-writes' })
register('inspect', inspect, { 'no-writes' })
register('list', list, { 'no-writes' })
register('stats', stats, { 'no-writes' })
register('sessions', sessions, { 'no-writes' })
register('holders', holders, { 'no-writes' })
