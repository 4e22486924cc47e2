--- Failed jobs in groups of one fingerprint, the group that failed last first.
-- KEYS[1]  the queue's meta hash
-- ARGV     cursor ('' for the first page), how many groups to look at, job name ('' for any), from when on and before when the jobs ended in µs ('' for any)
-- Returns  { cursor of the next page ('' when this was the last), FAILED jobs, fingerprint, group, fingerprint … }; a group is
--          { count, resolved, end of the first, end of the latest, id of the latest, its record without payload }

-- The group of a fingerprint, as far as its jobs ended in the time and have the name; nil when there is none. All jobs of a fingerprint have one name.
local function group(base, fingerprint, name, from, before)
  local first, last = failures.range(fingerprint)
  if from ~= '' then first = '[' .. fingerprint .. number8(tonumber(from)) end
  if before ~= '' then last = '(' .. fingerprint .. number8(tonumber(before)) end
  local oldest = redis.call('ZRANGEBYLEX', base .. 'D', first, last, 'LIMIT', 0, 1)[1]
  local latest = redis.call('ZREVRANGEBYLEX', base .. 'D', last, first, 'LIMIT', 0, 1)[1]
  if not latest then return nil end
  local id = sub(latest, 17)
  local record = redis.call('GET', base .. 'j' .. id)
  if name ~= '' and (not record or sub(record, HEADER_SIZE + 1, HEADER_SIZE + 1 + #name) ~= string.char(#name) .. name) then return nil end
  return { redis.call('ZLEXCOUNT', base .. 'D', first, last), redis.call('ZLEXCOUNT', base .. 'R', first, last), struct.unpack('>I8', sub(oldest, 9, 16)),
    (struct.unpack('>I8', sub(latest, 9, 16))), id, record and brief(record) or '' }
end

local function list_failures(keys, argv)
  bind()
  local base, limit = sub(keys[1], 1, -2), tonumber(argv[2])
  local found = redis.call('ZREVRANGEBYSCORE', base .. 'F', argv[1] == '' and '+inf' or '(' .. argv[1], argv[4] == '' and '-inf' or argv[4],
    'WITHSCORES', 'LIMIT', 0, limit)
  local out = { #found == 2 * limit and string.format('%.0f', tonumber(found[#found])) or '', redis.call('ZCARD', base .. 'f') + redis.call('ZCARD', base .. 'K6') }
  for i = 1, #found, 2 do
    local row = group(base, found[i], argv[3], argv[4], argv[5])
    if row then out[#out + 1], out[#out + 2] = found[i], row end
  end
  return out
end

register('failures', list_failures, { 'no-writes' })
