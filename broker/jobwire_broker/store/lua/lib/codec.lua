--- The record of a job: its only codec on this side. store/codec.py is its twin; docs/architecture.md draws it.
--
-- header (52 bytes, big-endian) · body, which is: length of the job name (1 byte) · job name · sections
--   1 format  2 state  3 flags  4 losses  5 ended  6 progress (2)  8 returns  9 attempt (2)  11 revision (8)  19 sid (4)  23 token (8)
--   31 created (8)  39 order (8)  47 attempts (2)  49 priority (4)
-- Bytes that change together stand together: the plain lease and the plain completion, of which there are most, cut and join strings, and decode nothing.
-- A section is tag (1 byte) · length (4 bytes) · bytes. Tags below 64 are the job as it was enqueued and never change; tags from 64 are what happened since.
-- A later rule adds a tag: a job that doesn't use the rule pays nothing, and who doesn't know a tag keeps it as it is.
-- A long payload has a key of its own (FLAG_APART), so that what is read and written at every step stays short.
local FORMAT = 1
local HEADER = '>BBBBBI2BI2I8I4I8I8I8I2i4'
local HEADER_SIZE = 52
local LEASED = '>BBBBBI2BI2I8I4I8'
local LEASED_SIZE = 30
-- Where what a producer decides begins: attempts, priority and the body come with the call that makes the job.
local MADE_SIZE = 46

local STATE = { DELAYED = 1, WAITING = 2, BLOCKED = 3, ACTIVE = 4, COMPLETED = 5, FAILED = 6, CANCELLED = 7, EXPIRED = 8 }
-- Only in events: the job was deleted.
local STATE_REMOVED = 9
-- FLAG_LOST: the last lease was lost with its session, and counted as a loss; the next lease or adoption clears it.
-- FLAG_COUNTED: its lease counts in a limit of its group, its job name, or in units other than one. FLAG_TIMED: it has rules of time (times.lua).
-- FLAG_KEPT: it has keys of its own beside record and payload (history, log, identity), which go with it.
local FLAG_CANCEL_REQUESTED, FLAG_CANCEL_DELIVERED, FLAG_ALONE, FLAG_APART, FLAG_LOST, FLAG_COUNTED, FLAG_TIMED, FLAG_KEPT = 1, 2, 4, 8, 16, 32, 64, 128
local NO_PROGRESS = 65535
local TAG_PAYLOAD, TAG_BACKOFF, TAG_STATE_FIRST, TAG_PROGRESS, TAG_RESULT, TAG_FAILURE = 1, 2, 64, 64, 65, 66
-- Those that a job has only when it uses their rule; store/codec.py says what is in each.
local TAG = {
  GROUP = 4, LABELS = 5, REQUIRED_LABELS = 6, UNITS = 7, EXPIRY = 8, TIMEOUT = 9, TOTAL_TIMEOUT = 10, IDENTITY = 11, RETENTION = 12, DELAYS = 13, PERMANENT = 14,
  ATTEMPTS = 67, CHECKPOINT = 68, RESOLUTION = 69, CANCEL = 70, FIRST_START = 71, FINGERPRINT = 72, ORIGINAL = 73,
}
-- Only in events: the sections of group and labels that were changed, as they were; what the event had no room for is to be read; log lines.
local TAG_WAS, TAG_TRUNCATED, TAG_LOG = 125, 126, 127
local EVENT_BYTES = 32768
-- How the last finished lease ended. 0: the last lease has not finished.
local END = { NONE = 0, COMPLETE = 1, FAIL = 2, SNOOZE = 3, RELEASE = 4, CANCEL = 5, TIMEOUT = 6, LIMIT = 7 }

-- Looked up once: a library that loads does not see the standard libraries yet, and what every job needs is not looked up for every job.
local sub, byte, pack
local function bind()
  sub, byte, pack = string.sub, string.byte, struct.pack
end

-- Read a record into a table; nil when `s` is none.
local function decode(s)
  if not s or #s <= HEADER_SIZE then return nil end
  local format, state, flags, losses, ended, progress, returns, attempt, revision, sid, token, created, order, attempts, priority = struct.unpack(HEADER, s)
  if format ~= FORMAT then return nil end
  return {
    state = state, flags = flags, losses = losses, ended = ended, returns = returns, progress = progress, attempt = attempt, sid = sid, revision = revision,
    token = token, attempts = attempts, priority = priority, order = order, created = created, body = string.sub(s, HEADER_SIZE + 1),
  }
end

local function encode(j)
  return struct.pack(HEADER, FORMAT, j.state, j.flags, j.losses, j.ended, j.progress, j.returns, j.attempt, j.revision, j.sid, j.token,
    j.created, j.order, j.attempts, j.priority) .. j.body
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

-- Where the sections of a body begin.
local function sections_start(body)
  return string.byte(body) + 2
end

-- Call visit(tag, first, last) for each section of a body; first and last span tag, length and bytes.
local function each_section(body, visit)
  local pos = sections_start(body)
  while pos + 4 <= #body do
    local tag, size = struct.unpack('>BI4', string.sub(body, pos, pos + 4))
    visit(tag, pos, pos + 4 + size)
    pos = pos + 5 + size
  end
end

-- The bytes of one section, or nil.
local function section(body, wanted)
  local found
  each_section(body, function(tag, first, last)
    if tag == wanted then found = string.sub(body, first + 5, last) end
  end)
  return found
end

-- A body with the sections alone for which keep(tag) is true.
local function filtered(body, keep)
  local parts = { string.sub(body, 1, sections_start(body) - 1) }
  each_section(body, function(tag, first, last)
    if keep(tag) then parts[#parts + 1] = string.sub(body, first, last) end
  end)
  return table.concat(parts)
end

-- A body with section `wanted` set to `bytes`; the section is gone when `bytes` is empty.
local function with_section(body, wanted, bytes)
  local rest = #body < sections_start(body) and body or filtered(body, function(tag) return tag ~= wanted end)
  if bytes == '' then return rest end
  return rest .. struct.pack('>BI4', wanted, #bytes) .. bytes
end

-- What lists and watchers need of what was enqueued: no payload, and nothing that decides of waits alone.
local function is_shown(tag)
  return tag >= TAG_STATE_FIRST or (tag >= TAG.GROUP and tag <= TAG.TOTAL_TIMEOUT)
end

-- A record as watchers get it.
local function brief(record)
  return string.sub(record, 1, HEADER_SIZE) .. filtered(string.sub(record, HEADER_SIZE + 1), is_shown)
end

-- A record as lists show it: a page is of many, so the result is left out as well.
local function list_entry(record)
  return string.sub(record, 1, HEADER_SIZE) .. filtered(string.sub(record, HEADER_SIZE + 1), function(tag) return tag ~= TAG_RESULT and is_shown(tag) end)
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

-- The entry of an ended job in the list of COMPLETED: all that must be known when it is forgotten. The last byte before the id is `ended`, with APART_MARK
-- when the payload is kept apart, and KEPT_MARK when it has other keys of its own.
local END_ENTRY = '>I8I8I8B'
local END_ENTRY_SIZE = 25
local APART_MARK, KEPT_MARK = 128, 64
local function end_entry(j, id)
  local marks = j.ended
  if has_flag(j, FLAG_APART) then marks = marks + APART_MARK end
  if has_flag(j, FLAG_KEPT) then marks = marks + KEPT_MARK end
  return struct.pack(END_ENTRY, j.revision, j.token, j.created, marks) .. id
end

-- Headers of the plain cases, as bytes: a new job; the first lease of one that nothing has happened to; the completion of a lease without flags.
local NEW = '\1\2\0\0\0\255\255\0\0\0'
local FIRST_LEASE = '\1\4\0\0\0\255\255\0\0\1'
local PLAIN_ACTIVE = '\1\4\0'
local PLAIN_COMPLETED = '\1\5\0\0\1\39\16'
local NO_SID, NO_TOKEN = '\0\0\0\0', '\0\0\0\0\0\0\0\0'

-- A new job that waits. `n8` is its first number; `tail` is attempts, priority and body.
local function new_record(n8, tail)
  return NEW .. n8 .. NO_SID .. NO_TOKEN .. n8 .. n8 .. tail
end

-- The record of a job that nothing has happened to yet, leased. nil for any other.
local function first_lease(record, sid4, token8)
  if sub(record, 1, 10) ~= NEW then return nil end
  return FIRST_LEASE .. token8 .. sid4 .. token8 .. sub(record, LEASED_SIZE + 1)
end

-- Whether a record is that of a lease with this token, without flags.
local function is_plain_lease(record, token8)
  return sub(record, 1, 3) == PLAIN_ACTIVE and sub(record, 23, LEASED_SIZE) == token8
end

-- The record of such a lease, completed; its place among the leases; its entry among the completed. The sid stays: it says who ran it.
local function plain_completion(record, n8, id)
  return PLAIN_COMPLETED .. sub(record, 8, 10) .. n8 .. sub(record, 19), sub(record, 19, LEASED_SIZE) .. id,
    n8 .. sub(record, 23, 38) .. '\1' .. id
end
