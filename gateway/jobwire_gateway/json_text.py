"""The one writer of JSON, for frames, answers and lines alike: UTF-8, compact, and without NaN.

What a worker sent as JSON may have half a surrogate pair in it, as `"\\ud83d"`: RFC 8259 allows that, JavaScript makes it of a text cut off inside an
emoji, and UTF-8 has no bytes for it. So such a text goes out as it came in, with escapes.
"""

import json

from starlette.responses import JSONResponse

MAX_DEPTH = 500
"""So deeply may be nested what is shown as a value: whoever writes it has less of the stack left than whoever read it."""


def encoded(value: object) -> bytes:
    """Write a value."""
    try:
        return _text(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return _text(value, ensure_ascii=True).encode()


def is_too_deep(text: str, value: object) -> bool:
    """Whether the value that was read of a text is nested more deeply than `MAX_DEPTH`."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, (dict, list))]
        if not level:
            return False
    return True


class JsonAnswer(JSONResponse):
    """An answer of JSON."""

    def render(self, content: object) -> bytes:
        """Write the body."""
        return encoded(content)


def _text(value: object, *, ensure_ascii: bool) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, separators=(",", ":"), allow_nan=False)


def _inside(value: object) -> list[object]:
    match value:
        case dict():
            return list(value.values())
        case list():
            return value
        case _:
            return []
