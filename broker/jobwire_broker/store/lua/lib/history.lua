--- The attempts of a job that ended otherwise than by completion, in key h<id>: the last 20, the oldest first, 64 KiB at most.
--
-- An entry is token (8) · end in µs (8) · sid (4) · number (2) · how it ended (1, jobwire.v1.AttemptEnd) · length of the failure (4) · jobwire.v1.Failure.
-- The run of an active job, and the last one of a completed job, are in its record alone: who needs one attempt pays nothing for its history.
local history = {
  FAILED = 2, TIMEOUT = 3, SNOOZED = 4, RELEASED = 5, LOST = 6, CANCELLED = 7, LIMITED = 8, MAX = 20, BYTES = 65536, ENTRY = '>I8I8I4I2BI4', ENTRY_SIZE = 27,
}

-- Call visit(first) for each entry.
function history.each(past, visit)
  local at = 1
  while at <= #past do
    visit(at)
    at = at + history.ENTRY_SIZE + struct.unpack('>I4', past, at + history.ENTRY_SIZE - 4)
  end
end

-- Note the end of the attempt whose token the job has. What was noted of the same lease before was not its end: it was taken for lost.
function history.add(ctx, j, ended, failure, number)
  local past = ctx.histories[j.id] or (has_flag(j, FLAG_KEPT) and redis.call('GET', ctx.base .. 'h' .. j.id)) or ''
  local starts, sid = {}, j.sid
  history.each(past, function(first) starts[#starts + 1] = first end)
  local last = starts[#starts]
  if last and struct.unpack('>I8', past, last) == j.token then
    if sid == 0 then sid = struct.unpack('>I4', past, last + 16) end
    past, starts[#starts] = sub(past, 1, last - 1), nil
  end
  local entry = struct.pack(history.ENTRY, j.token, math.max(ctx.now_us, j.token), sid, number or j.attempt, ended, #failure) .. failure
  local first = math.max(1, #starts - history.MAX + 2)
  while starts[first] and #past - starts[first] + 1 + #entry > history.BYTES do first = first + 1 end
  past = (starts[first] and sub(past, starts[first]) or '') .. entry
  ctx.histories[j.id] = past
  gather(ctx, 'MSET', ctx.base .. 'h' .. j.id, past)
  set_flag(j, FLAG_KEPT)
end

-- The label of a session outlives it, so that a job tells who ran it: of the last thousand sessions about.
function history.keep_label(ctx, sid, descriptor)
  local label = history.label_of(descriptor)
  if label == '' then return end
  local key = ctx.base .. 'S'
  redis.call('HSET', key, struct.pack('>I4', sid), label)
  if redis.call('HLEN', key) <= 1250 then return end
  local sids = redis.call('HKEYS', key)
  table.sort(sids)
  redis.call('HDEL', key, unpack(sids, 1, 250))
end

-- The label in a descriptor, a jobwire.v1.Worker: field 2, behind field 1.
function history.label_of(descriptor)
  local at = byte(descriptor, 1) == 10 and 3 + (byte(descriptor, 2) or 0) or 1
  if byte(descriptor, at) ~= 18 then return '' end
  local size, from = byte(descriptor, at + 1), at + 2
  if size > 127 then size, from = size - 128 + 128 * byte(descriptor, at + 2), at + 3 end
  return sub(descriptor, from, from + size - 1)
end
