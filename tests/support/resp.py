"""As much of the store's wire protocol (RESP2 and RESP3) as it takes to know where a value ends and how it begins."""

_LINES = b"+-:_,#("
_BULKS = b"$!="
_LISTS = b"*~>"
_MAPS = b"%|"


def value_end(buffer: bytes, start: int) -> int | None:
    """Where the value that begins at `start` ends; None while some of it is still to come."""
    line_end = buffer.find(b"\r\n", start)
    if line_end < 0:
        return None
    kind, after = buffer[start : start + 1], line_end + 2
    if kind in _LINES:
        return after
    count = int(buffer[start + 1 : line_end])
    if count < 0:
        return after
    if kind in _BULKS:
        end = after + count + 2
        return end if end <= len(buffer) else None
    if kind not in _LISTS + _MAPS:
        raise ValueError(f"not a value of RESP: {buffer[start : start + 20]!r}")
    return _elements_end(buffer, after, 2 * count if kind in _MAPS else count)


def first_words(value: bytes, count: int) -> list[bytes]:
    """The first elements of a list of strings; fewer than `count` only when the value ends before, and one empty word when it is no list."""
    if value[:1] not in (b"*", b">"):
        return [b""]
    position = value.find(b"\r\n") + 2
    words: list[bytes] = []
    while len(words) < count and position < len(value):
        end = value_end(value, position)
        assert end is not None
        words.append(_text(value[position:end]))
        position = end
    return words or [b""]


def _elements_end(buffer: bytes, position: int, count: int) -> int | None:
    for _ in range(count):
        end = value_end(buffer, position)
        if end is None:
            return None
        position = end
    return position


def _text(value: bytes) -> bytes:
    head, _, tail = value.partition(b"\r\n")
    return tail[:-2] if head[:1] == b"$" else head[1:]
