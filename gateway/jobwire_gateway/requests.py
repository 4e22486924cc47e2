"""Reading what is asked for: query, body, media types. Whatever is wrong is said by name, and nothing unknown is passed over in silence."""

import asyncio
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NoReturn
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from jobwire_gateway.json_text import is_too_deep
from jobwire_gateway.problems import Problem, Violation

JSON = "application/json"
NDJSON = "application/x-ndjson"

BODY_S = 10.0
"""A body that takes longer to arrive is given up."""

_MAX_PAGE_TOKEN = 2048
_MAX_PARAMETERS = 32
_WAIT = re.compile(r"\s*wait\s*=\s*\"?([0-9]{1,9})\"?\s*", re.IGNORECASE)


def query_of(scope: Scope, allowed: Collection[str]) -> dict[str, str]:
    """Read a query in which everything is there once.

    Raises:
        Problem: 400, a parameter is unknown, is there twice, or is no UTF-8.
    """
    return query_with_lists(scope, allowed, ())[0]


def query_with_lists(scope: Scope, allowed: Collection[str], lists: Collection[str]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Read a query in which those of `lists` may be there several times.

    Raises:
        Problem: 400, a parameter is unknown, is there twice where it may not, or is no UTF-8.
    """
    text = scope["query_string"]
    if text.count(b"&") >= _MAX_PARAMETERS:
        raise Problem(400, f"A query may have {_MAX_PARAMETERS} parameters.", reason="INVALID_FIELD")
    try:
        pairs = parse_qsl(text.decode("ascii"), keep_blank_values=True, strict_parsing=bool(text), errors="strict")
    except (UnicodeError, ValueError):
        raise Problem(400, "The query cannot be read.", reason="INVALID_FIELD") from None
    query: dict[str, str] = {}
    several: dict[str, list[str]] = {}
    for name, value in pairs:
        if name in lists:
            several.setdefault(name, []).append(value)
        elif name not in allowed:
            raise _unknown("query parameter", name, (*allowed, *lists))
        elif name in query:
            raise invalid(name, "is there twice")
        else:
            query[name] = value
    return query, several


def page_of(query: Mapping[str, str]) -> tuple[int, str]:
    """The size and the token of the page that is asked for, as the contract's lists take them.

    Raises:
        Problem: 400, its size or token is out of its bounds.
    """
    size, token = query.get("pageSize", ""), query.get("pageToken", "")
    if "pageSize" in query and not (size.isascii() and size.isdigit() and len(size) <= 4 and 1 <= int(size) <= 1_000):
        raise invalid("pageSize", "must be a whole number from 1 to 1000")
    if len(token) > _MAX_PAGE_TOKEN:
        raise invalid("pageToken", "is not one of this list")
    return int(size or 0), token


def media_type_of(headers: Headers) -> str:
    """The media type of the body, without parameters; empty when none is given."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def refuse_condition(headers: Headers) -> None:
    """Raise a problem where a change is asked for on the condition that nothing has changed meanwhile. No change is made so, and to make it all the same
    would overwrite what the caller has not seen. (Our ETags are weak, and of those RFC 9110 has none hold in If-Match.)
    """
    if headers.get("if-match", "*").strip() != "*":
        raise Problem(412, "No change is made on a condition here: leave If-Match out, and the last change holds.", reason="CONDITION_NOT_KNOWN")


def refuse_coded(headers: Headers) -> None:
    """Raise a problem where a body is compressed: none is unpacked, since a few bytes can hold gigabytes."""
    coding = headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        sentence = f"The body must not be compressed: it has the Content-Encoding {coding[:60]!r}."
        raise Problem(415, sentence, reason="UNSUPPORTED_MEDIA_TYPE", headers={"Accept-Encoding": "identity"})


def wrong_media_type(headers: Headers, *wanted: str) -> Problem:
    """A body that is something else than what is wanted."""
    found = media_type_of(headers)
    said = f"not {found[:60]!r}" if found else "and none was given"
    return Problem(
        415, f"The body's Content-Type must be {' or '.join(wanted)}, {said}.", reason="UNSUPPORTED_MEDIA_TYPE", headers={"Accept-Post": ", ".join(wanted)}
    )


async def json_body(request: Request, limit: int, *, optional: bool = False) -> dict[str, object]:
    """Read a body that is a JSON object. With `optional`, no body is an empty object.

    Raises:
        Problem: 400, 408, 413 or 415.
    """
    refuse_coded(request.headers)
    if media_type_of(request.headers) == JSON:
        body = await _read(request, limit)
        return {} if optional and not body else json_object(body, "body")
    if optional and "content-type" not in request.headers and not await _read(request, limit):
        return {}
    raise wrong_media_type(request.headers, JSON)


def preferred_wait(headers: Headers) -> float | None:
    """The seconds of `Prefer: wait=N` (RFC 7240). A preference that is not known, or makes no sense, is as none: the RFC wants it so."""
    preferences = (part.partition(";")[0] for value in headers.getlist("prefer") for part in value.split(","))
    found = next(filter(None, map(_WAIT.fullmatch, preferences)), None)
    return float(found[1]) if found else None


def refuse_unknown(members: Iterable[str], allowed: Collection[str]) -> None:
    """Raise a problem that names the first member which is unknown."""
    for name in members:
        if name not in allowed:
            raise _unknown("field", name, allowed)


def invalid(field: str, description: str) -> Problem:
    """A field that is out of its bounds."""
    return Problem(400, f"{field} {description}.", reason="INVALID_FIELD", violations=(Violation(field, description),))


def wants_events(headers: Headers) -> bool:
    """Whether the one who asks is an EventSource, to whom anything but 200 is the end."""
    return any(part.partition(";")[0].strip().lower() == "text/event-stream" for part in headers.get("accept", "").split(","))


async def _read(request: Request, limit: int) -> bytes:
    too_large = Problem(413, f"The body is larger than {limit} bytes.", reason="PAYLOAD_TOO_LARGE")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise Problem(408, f"The body did not arrive within {BODY_S:.0f} s.") from None
    except ClientDisconnect:
        raise Problem(400, "The body ended early.") from None
    return bytes(body)


def json_object(text: bytes, what: str) -> dict[str, object]:
    """Read a JSON object strictly.

    Raises:
        Problem: 400, it is something else, or something that is no JSON. `what` is what the sentence calls it.
    """
    try:
        read = text.decode("utf-8")
        if read.startswith("\ufeff"):
            raise _malformed(f"The {what} begins with a byte order mark: send UTF-8 without one.")
        value = strict_json(read)
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise _malformed(f"The {what} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.") from None
    except RecursionError:
        raise _malformed(f"The {what} is nested too deeply.") from None
    except UnicodeError:
        raise _malformed(f"The {what} is not UTF-8, or has half a surrogate pair in it.") from None
    except _NotJsonError as error:
        raise _malformed(f"The {what} is not JSON: {error}.") from None
    except ValueError:
        # Python's own bound: to read them takes time with the square of their digits.
        raise _malformed(f"A whole number in the {what} may have {sys.get_int_max_str_digits()} digits.") from None
    if not isinstance(value, dict):
        raise _malformed(f"The {what} must be a JSON object.")
    return value


def strict_json(text: str) -> object:
    """Read JSON in which no member is there twice and each number is one.

    Raises:
        ValueError: it is something else.
        RecursionError: it is nested too deeply.
    """
    value = json.loads(text, object_pairs_hook=_members, parse_constant=_no_number, parse_float=_finite)
    if is_too_deep(text, value):
        raise RecursionError
    return value


class _NotJsonError(ValueError):
    """Raised when Python would read what is no JSON."""


def _malformed(sentence: str) -> Problem:
    return Problem(400, sentence, reason="MALFORMED_JSON")


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise _NotJsonError(f"the member {twice[:60]!r} is there twice")
    return members


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        _no_number(text[:40])
    return number


def _no_number(text: str) -> NoReturn:
    raise _NotJsonError(f"{text} is not a number that JSON has")


def _unknown(what: str, name: str, allowed: Collection[str]) -> Problem:
    known = ", ".join(sorted(allowed)) or "none"
    return Problem(
        400, f"There is no {what} {name[:60]!r} here; there is: {known}.", reason="INVALID_FIELD", violations=(Violation(name[:60], f"unknown {what}"),)
    )
