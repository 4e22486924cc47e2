--- Failed jobs, grouped by what they have in common: their fingerprint, made of job name, error type, reason, and the shape of the message.
--
-- Keys, none of which is there in a queue where nothing has failed:
--   D  zset  every FAILED job, score 0, member = fingerprint (8) .. end (8) .. id: the jobs of a fingerprint stand together, in the order of their ends
--   R  zset  those of them that are resolved, same members
--   F  zset  fingerprints, score = end of the latest job
-- What can be read from the two sorted sets is kept nowhere else, so it can't be wrong: counts, the first and the last, and, from the record of the last, a sample.
local failures = { shaped_bytes = 1024, shape_bytes = 256 }

-- The texts of a jobwire.v1.Failure, by the numbers of their fields. Bytes that are no such message have none.
function failures.read(message)
  local texts, at = { '', '', '', '' }, 1
  while at < #message do
    local tag = byte(message, at)
    if tag % 8 ~= 2 then break end
    local size, scale, digit = 0, 1, nil
    repeat
      at = at + 1
      digit = byte(message, at) or 0
      size, scale = size + digit % 128 * scale, scale * 128
    until digit < 128
    if at + size > #message then break end
    texts[(tag - 2) / 8] = sub(message, at + 1, at + size)
    at = at + 1 + size
  end
  return texts
end

-- What many messages of one cause have in common: no quoted text, no numbers, no ids. `can't` opens no quote; a word of eight or more hexadecimal digits is an id.
function failures.shape(message)
  local text = string.gsub(' ' .. sub(message, 1, failures.shaped_bytes), '"[^"]*"', '"')
  text = string.gsub(text, '`[^`]*`', '`')
  text = string.gsub(text, "([^%w])'[^']*'", "%1'")
  text = string.gsub(text, '%x%x%x%x%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x', '#')
  text = string.gsub(text, '%w+', function(word)
    if string.find(word, '%d') or (#word >= 8 and not string.find(word, '%X')) then return '#' end
  end)
  text = string.gsub(text, '[%-+]?#[#%.,:%-]*', '#')
  return sub(text, 1, failures.shape_bytes)
end

-- Give a job that fails its fingerprint.
function failures.mark(j)
  local texts = failures.read(section(j.body, TAG_FAILURE) or '')
  local name = sub(j.body, 2, sections_start(j.body) - 1)
  local hex = redis.sha1hex(name .. '\0' .. texts[1] .. '\0' .. texts[4] .. '\0' .. failures.shape(texts[2]))
  local fingerprint = string.gsub(sub(hex, 1, 16), '%x%x', function(two) return string.char(tonumber(two, 16)) end)
  j.body = with_section(j.body, TAG.FINGERPRINT, fingerprint)
end

-- When a failed job ended. To resolve it gives it a later revision, so the note carries the date.
function failures.ended_at(j)
  local resolution = section(j.body, TAG.RESOLUTION)
  if not resolution then return j.revision end
  return (struct.unpack('>I8', resolution))
end

-- The place of a job in `D` and `R`, and its fingerprint. nil for one that has none.
function failures.place(j)
  local fingerprint = section(j.body, TAG.FINGERPRINT)
  if not fingerprint then return nil end
  return fingerprint .. number8(failures.ended_at(j)) .. j.id, fingerprint
end

-- The latest of a group is another now; `refresh` finds out which.
function failures.note(ctx, fingerprint)
  ctx.fingerprints = ctx.fingerprints or {}
  ctx.fingerprints[fingerprint] = true
end

function failures.enter(ctx, j)
  local place, fingerprint = failures.place(j)
  if not place then return end
  gather(ctx, 'ZADD D', '0', place)
  failures.note(ctx, fingerprint)
end

function failures.leave(ctx, j)
  local place, fingerprint = failures.place(j)
  if not place then return end
  gather(ctx, 'ZREM D', place)
  if section(j.body, TAG.RESOLUTION) then gather(ctx, 'ZREM R', place) end
  failures.note(ctx, fingerprint)
end

-- Forget that a job had failed; that it did, and how, stays.
function failures.clear(j)
  j.body = filtered(j.body, function(tag) return tag ~= TAG.FINGERPRINT and tag ~= TAG.RESOLUTION end)
end

-- Leave a note on a failed job. The caller gives it its next revision.
function failures.resolve(ctx, j, note)
  local place = failures.place(j)
  if place then gather(ctx, 'ZADD R', '0', place) end
  j.body = with_section(j.body, TAG.RESOLUTION, number8(failures.ended_at(j)) .. number8(ctx.now_us) .. note)
end

-- The members of one fingerprint, as a range for ZRANGEBYLEX: an end is a date in microseconds, whose first byte is 0.
function failures.range(fingerprint)
  return '[' .. fingerprint, '(' .. fingerprint .. '\1'
end

-- After all was written: let `F` say of each group that changed when its latest job failed.
function failures.refresh(ctx)
  for fingerprint in pairs(ctx.fingerprints) do
    local first, last = failures.range(fingerprint)
    local latest = redis.call('ZREVRANGEBYLEX', ctx.base .. 'D', last, first, 'LIMIT', 0, 1)[1]
    if latest then
      redis.call('ZADD', ctx.base .. 'F', struct.unpack('>I8', sub(latest, 9, 16)), fingerprint)
    else
      redis.call('ZREM', ctx.base .. 'F', fingerprint)
    end
  end
  ctx.fingerprints = nil
end
