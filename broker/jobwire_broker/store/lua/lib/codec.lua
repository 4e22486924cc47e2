--- The record of a job: its only codec on this side. store/codec.py is its twin; docs/architecture.md draws it.
--
-- header (52 bytes, big-endian) · length of the job name (1 byte) · job name · sections
-- A section is tag (1 byte) · length (4 bytes) · bytes. Tags below 64 are the job as it was enqueued and never change; tags from 64 are what happened since.
-- A later rule adds a tag: a job that doesn't use the rule pays nothing, and who doesn't know a tag keeps it as it is.
local FORMAT = 1
local HEADER = '>BBBBi4I8I8I8I8I2I2I4I2BB'
local HEADER_SIZE = 52

local STATE = { DELAYED = 1, WAITING = 2, BLOCKED = 3, ACTIVE = 4, COMPLETED = 5, FAILED = 6, CANCELLED = 7, EXPIRED = 8 }
-- Only in events: the job was deleted.
local STATE_REMOVED = 9
local FLAG_CANCEL_REQUESTED, FLAG_CANCEL_DELIVERED, FLAG_ALONE = 1, 2, 4
local NO_PROGRESS = 65535
local TAG_PAYLOAD, TAG_BACKOFF, TAG_STATE_FIRST, TAG_PROGRESS, TAG_RESULT, TAG_FAILURE = 1, 2, 64, 64, 65, 66
-- Only in events: what the event had no room for is to be read; log lines.
local TAG_TRUNCATED, TAG_LOG = 126, 127
local EVENT_BYTES = 32768
-- How the last finished lease ended. 0: the last lease has not finished.
local END = { NONE = 0, COMPLETE = 1, FAIL = 2, SNOOZE = 3, RELEASE = 4, CANCEL = 5 }

-- Read a header into a table; nil when `s` is none.
local function decode(s)
  if not s or #s < HEADER_SIZE then return nil end
  local format, state, flags, losses, priority, revision, order, token, created, attempt, attempts, sid, progress, ended, returns = struct.unpack(HEADER, s)
  if format ~= FORMAT then return nil end
  return {
    state = state, flags = flags, losses = losses, priority = priority, revision = revision, order = order, token = token, created = created,
    attempt = attempt, attempts = attempts, sid = sid, progress = progress, ended = ended, returns = returns,
  }
end

local function encode(j)
  return struct.pack(HEADER, FORMAT, j.state, j.flags, j.losses, j.priority, j.revision, j.order, j.token, j.created,
    j.attempt, j.attempts, j.sid, j.progress, j.ended, j.returns)
end

local function has_flag(j, flag)
  return math.floor(j.flags / flag) % 2 == 1
end

local function set_flag(j, flag)
  if not has_flag(j, flag) then j.flags = j.flags + flag end
end

local function clear_flag(j, flag)
  if has_flag(j, flag) then j.flags = j.flags - flag end
end

-- Call visit(tag, first, last) for each section of a whole record; first and last span tag, length and bytes.
local function each_section(record, visit)
  local pos = HEADER_SIZE + 2 + string.byte(record, HEADER_SIZE + 1)
  while pos + 4 <= #record do
    local tag, size = struct.unpack('>BI4', string.sub(record, pos, pos + 4))
    visit(tag, pos, pos + 4 + size)
    pos = pos + 5 + size
  end
end

-- The sections from tag 64 on, as one string.
local function state_sections(record)
  local parts = {}
  each_section(record, function(tag, first, last)
    if tag >= TAG_STATE_FIRST then parts[#parts + 1] = string.sub(record, first, last) end
  end)
  return table.concat(parts)
end

-- The record without its payload: what lists and watchers need.
local function brief(record)
  local name_end = HEADER_SIZE + 1 + string.byte(record, HEADER_SIZE + 1)
  return string.sub(record, 1, name_end) .. state_sections(record)
end

-- The bytes of one section, or nil.
local function section(record, wanted)
  local found
  each_section(record, function(tag, first, last)
    if tag == wanted then found = string.sub(record, first + 5, last) end
  end)
  return found
end

-- The record with section `tag` set to `bytes`; nothing is kept when `bytes` is empty.
local function with_section(record, wanted, bytes)
  local name_end = HEADER_SIZE + 1 + string.byte(record, HEADER_SIZE + 1)
  local parts = { string.sub(record, 1, name_end) }
  each_section(record, function(tag, first, last)
    if tag ~= wanted then parts[#parts + 1] = string.sub(record, first, last) end
  end)
  if bytes ~= '' then parts[#parts + 1] = struct.pack('>BI4', wanted, #bytes) .. bytes end
  return table.concat(parts)
end

local function number8(n)
  return struct.pack('>I8', n)
end

-- The place of a job in the indexes of what waits: equal scores sort by it, and a job that comes back regains it.
local function place(j, id)
  return struct.pack('>I8', j.order) .. id
end

-- The place of a job in the index of leases: by session, then by token.
local function lease_place(j, id)
  return struct.pack('>I4I8', j.sid, j.token) .. id
end
