--- What a job keeps beside its record, in keys of its own that go with it (unlink_kept): its log, and its checkpoint.
--
-- L<id> is a list: pieces of the log, the oldest first, and its head last.
--   piece: cursor of its first line (8) · attempt (2) · count (2) · lines, each its length (2) and a jobwire.v1.LogLine without cursor and attempt
--   head: token (8), sequence (8) and cursor (8) of the last line · lines (4) and bytes (4) that are kept
-- y<id> is the checkpoint: token (8) and sequence (8) of the report that left it · a jobwire.v1.Payload, empty when it took the last one away. Both outlive an attempt; the checkpoint goes when the job is completed.
local kept = { PIECE = '>I8I2I2', PIECE_SIZE = 12, HEAD = '>I8I8I8I4I4', LINES = 1000, BYTES = 262144, EVENT_BYTES = 12288, LEFT = '>I8I8', LEFT_SIZE = 16 }

-- Note in the record that the job has keys of its own. To those who watch it the job is as it was, so it gets no new revision.
function kept.note(ctx, j)
  if has_flag(j, FLAG_KEPT) then return end
  set_flag(j, FLAG_KEPT)
  if not j.dirty then gather(ctx, 'MSET', ctx.record_key .. j.id, encode(j)) end
end

-- Those of `lines` (sequence (8) · length (2) · bytes each) that come after `sequence`, and the last sequence.
function kept.new_lines(lines, sequence)
  local fresh, at = {}, 1
  while at + 9 <= #lines do
    local number, size = struct.unpack('>I8I2', lines, at)
    -- What is no line makes none: nothing may raise here, behind the first write.
    if at + 9 + size > #lines then break end
    if number > sequence then
      fresh[#fresh + 1] = sub(lines, at + 8, at + 9 + size)
      sequence = number
    end
    at = at + 10 + size
  end
  return fresh, sequence
end

-- Tell lines from fresh[first] to fresh[last] to who watches now, as a section of their own behind the unchanged record.
function kept.tell_lines(ctx, j, cursor, fresh, first, last)
  local piece = struct.pack(kept.PIECE, cursor + first, j.attempt, last - first + 1) .. table.concat(fresh, '', first, last)
  tell(ctx, j.id, brief(encode(j)) .. struct.pack('>BI4', TAG_LOG, #piece) .. piece)
end

-- In events that are short enough to hold them whole.
function kept.tell(ctx, j, cursor, fresh)
  ctx.changed = true
  if not is_watched(ctx) then return end
  local first, size = 1, 0
  for i = 1, #fresh do
    if i > first and size + #fresh[i] > kept.EVENT_BYTES then
      kept.tell_lines(ctx, j, cursor, fresh, first, i - 1)
      first, size = i, 0
    end
    size = size + #fresh[i]
  end
  kept.tell_lines(ctx, j, cursor, fresh, first, #fresh)
end

-- Drop the oldest pieces of a log that has passed its bounds.
function kept.trim(key, count, bytes)
  while count > kept.LINES or bytes > kept.BYTES do
    local piece = redis.call('LPOP', key)
    local _, _, lines = struct.unpack(kept.PIECE, piece)
    count, bytes = count - lines, bytes - #piece
  end
  return count, bytes
end

-- Add lines to a log. A repeat adds none: the sequence grows within one lease.
function kept.log(ctx, j, lines)
  local key = ctx.base .. 'L' .. j.id
  local head = has_flag(j, FLAG_KEPT) and redis.call('LINDEX', key, -1)
  local token, sequence, cursor, count, bytes = 0, 0, 0, 0, 0
  if head then token, sequence, cursor, count, bytes = struct.unpack(kept.HEAD, head) end
  local fresh, last = kept.new_lines(lines, token == j.token and sequence or 0)
  if #fresh == 0 then return end
  kept.note(ctx, j)
  local piece = struct.pack(kept.PIECE, cursor + 1, j.attempt, #fresh) .. table.concat(fresh)
  if head then redis.call('LSET', key, -1, piece) else redis.call('RPUSH', key, piece) end
  count, bytes = kept.trim(key, count + #fresh, bytes + #piece)
  redis.call('RPUSH', key, struct.pack(kept.HEAD, j.token, last, cursor + #fresh, count, bytes))
  kept.tell(ctx, j, cursor, fresh)
end

-- Keep what the next attempt shall have; an empty one takes the last one away. A report that is late, on another way than the ones after it, changes nothing:
-- the sequence grows within one lease.
function kept.save_checkpoint(ctx, j, sequence, checkpoint)
  local key = ctx.base .. 'y' .. j.id
  local left = has_flag(j, FLAG_KEPT) and redis.call('GETRANGE', key, 0, kept.LEFT_SIZE - 1) or ''
  if left ~= '' then
    local token, last = struct.unpack(kept.LEFT, left)
    if token == j.token and sequence < last then return end
  end
  kept.note(ctx, j)
  redis.call('SET', key, struct.pack(kept.LEFT, j.token, sequence) .. checkpoint)
end

function kept.forget_checkpoint(ctx, j)
  if has_flag(j, FLAG_KEPT) then redis.call('UNLINK', ctx.base .. 'y' .. j.id) end
end

-- The section of a checkpoint; empty when there is none.
function kept.checkpoint(ctx, id)
  local checkpoint = redis.call('GETRANGE', ctx.base .. 'y' .. id, kept.LEFT_SIZE, -1)
  return checkpoint ~= '' and struct.pack('>BI4', TAG.CHECKPOINT, #checkpoint) .. checkpoint or ''
end
