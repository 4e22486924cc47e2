--- What a job carries from its enqueue on, and how it is changed while the job waits.
--
-- `tail` is the form in which a producer's call brings it: attempts (2) priority (4) body, the payload last. A record keeps it behind its header, without the
-- payload when that is kept apart.
local contents = { APART_OVER = 512, TAIL_HEAD = 6 }

-- A tail with a long payload taken out of it, and that payload; else the tail, and nil. A record is copied twice in a life: above this length that costs more than
-- a key of its own does.
function contents.part(tail)
  if #tail <= contents.APART_OVER then return tail, nil end
  local payload = section(string.sub(tail, contents.TAIL_HEAD + 1), TAG_PAYLOAD)
  if not payload or #payload <= contents.APART_OVER / 2 then return tail, nil end
  return string.sub(tail, 1, #tail - #payload - 5), payload
end

-- How many bytes a payload has: a jobwire.v1.Payload, whose first field is its content.
function contents.size(payload)
  local tag = byte(payload) or 0
  if tag ~= 10 and tag ~= 18 then return 0 end
  local size, shift, at = 0, 1, 2
  repeat
    local digit = byte(payload, at)
    size, shift, at = size + digit % 128 * shift, shift * 128, at + 1
  until digit < 128
  return size
end

-- Whether the queue takes no payload of this size. It comes without the head of its section.
function contents.is_too_large(ctx, payload)
  return ctx.policy.max_payload ~= nil and contents.size(payload) > ctx.policy.max_payload
end

-- The tail of a job as it is now.
function contents.tail(ctx, j)
  local tail = struct.pack('>I2i4', j.attempts, j.priority) .. filtered(j.body, function(tag) return tag < TAG_STATE_FIRST end)
  return has_flag(j, FLAG_APART) and tail .. payload_apart(ctx, j.id) or tail
end

-- What the tail of a changed job is known by: a call that is repeated must find its job although the job was changed meanwhile.
function contents.digest(tail)
  return string.sub(redis.sha1hex(tail), 1, 20)
end

-- Whether a job was made by a call with this tail.
function contents.is_same(ctx, j, tail)
  local original = section(j.body, TAG.ORIGINAL)
  if original then return original == contents.digest(tail) end
  return contents.tail(ctx, j) == tail
end

-- The sections by which a job belongs to a part of its queue that people follow.
function contents.parts(j)
  local body = filtered(j.body, function(tag) return tag == TAG.GROUP or tag == TAG.LABELS end)
  return string.sub(body, sections_start(body))
end

-- Give a job another tail. Whoever calls it has seen to its place, and touches it. The payload's key is written at once: one job may change twice in a call.
function contents.set(ctx, j, tail)
  local original = section(j.body, TAG.ORIGINAL) or contents.digest(contents.tail(ctx, j))
  local parts = contents.parts(j)
  local happened, payload = filtered(j.body, function(tag) return tag >= TAG_STATE_FIRST end), nil
  tail, payload = contents.part(tail)
  j.attempts, j.priority = struct.unpack('>I2i4', tail)
  j.body = string.sub(tail, contents.TAIL_HEAD + 1) .. string.sub(with_section(happened, TAG.ORIGINAL, original), sections_start(happened))
  -- For who follows a part that it leaves by this.
  if parts ~= contents.parts(j) then j.was = j.was or parts end
  times.mark(j)
  lines.mark(j)
  if payload then
    redis.call('SET', ctx.payload_key .. j.id, payload)
    set_flag(j, FLAG_APART)
  elseif has_flag(j, FLAG_APART) then
    redis.call('UNLINK', ctx.payload_key .. j.id)
    clear_flag(j, FLAG_APART)
  end
end

-- A tail with other sections: `changes` are whole sections by tag, empty for none. They stand in the order of their tags, the payload last.
function contents.changed(tail, changes, priority)
  local body = string.sub(tail, contents.TAIL_HEAD + 1)
  local all, tags = {}, {}
  each_section(body, function(tag, first, last) all[tag] = string.sub(body, first, last) end)
  for tag, bytes in pairs(changes) do all[tag] = bytes ~= '' and bytes or nil end
  for tag in pairs(all) do tags[#tags + 1] = tag end
  table.sort(tags, function(a, b) return (a == TAG_PAYLOAD and 256 or a) < (b == TAG_PAYLOAD and 256 or b) end)
  local parts = { string.sub(tail, 1, 2), priority and struct.pack('>i4', priority) or string.sub(tail, 3, contents.TAIL_HEAD), string.sub(body, 1, sections_start(body) - 1) }
  for i = 1, #tags do parts[#parts + 1] = all[tags[i]] end
  return table.concat(parts)
end
