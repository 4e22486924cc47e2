"""Reading what is asked for: query, body, media types. Whatever is wrong is said by name, and nothing unknown is passed over in silence."""

import asyncio
import json
import math
from collections.abc import Collection, Iterable
from typing import NoReturn
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from jobwire_gateway.problems import Problem, Violation

BODY_S = 10.0
"""A body that takes longer to arrive is given up."""


def query_of(scope: Scope, allowed: Collection[str]) -> dict[str, str]:
    """Read the query.

    Raises:
        Problem: 400, a parameter is unknown, is there twice, or is no UTF-8.
    """
    try:
        pairs = parse_qsl(
            scope["query_string"].decode("ascii"), keep_blank_values=True, strict_parsing=bool(scope["query_string"]), errors="strict", max_num_fields=32
        )
    except (UnicodeError, ValueError):
        raise Problem(400, "The query cannot be read.", reason="INVALID_FIELD") from None
    query: dict[str, str] = {}
    for name, value in pairs:
        if name not in allowed:
            raise _unknown("query parameter", name, allowed)
        if name in query:
            raise invalid(name, "is there twice")
        query[name] = value
    return query


async def json_body(request: Request, limit: int, *, optional: bool = False) -> dict[str, object]:
    """Read a body that is a JSON object. With `optional`, no body is an empty object.

    Raises:
        Problem: 400, 408, 413 or 415.
    """
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "application/json":
        return _object(await _read(request, limit), optional=optional)
    if optional and not content_type and not await _read(request, limit):
        return {}
    said = f"not {media_type[:60]!r}" if media_type else "and none was given"
    raise Problem(415, f"The body's Content-Type must be application/json, {said}.", reason="UNSUPPORTED_MEDIA_TYPE")


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


def _object(body: bytes, *, optional: bool) -> dict[str, object]:
    if optional and not body:
        return {}
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_members, parse_constant=_no_number, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise Problem(400, f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.", reason="MALFORMED_JSON") from None
    except RecursionError:
        raise Problem(400, "The body is nested too deeply.", reason="MALFORMED_JSON") from None
    except UnicodeError:
        raise Problem(400, "The body is not UTF-8, or has half a surrogate pair in it.", reason="MALFORMED_JSON") from None
    except ValueError as error:
        raise Problem(400, f"The body is not JSON: {error}.", reason="MALFORMED_JSON") from None
    if not isinstance(value, dict):
        raise Problem(400, "The body must be a JSON object.", reason="MALFORMED_JSON")
    return value


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice = next(name for index, (name, _) in enumerate(pairs) if name in (other for other, _ in pairs[:index]))
        raise ValueError(f"the member {twice[:60]!r} is there twice")
    return members


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        _no_number(text[:40])
    return number


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number that JSON has")


def _unknown(what: str, name: str, allowed: Collection[str]) -> Problem:
    known = ", ".join(sorted(allowed)) or "none"
    return Problem(
        400, f"There is no {what} {name[:60]!r} here; there is: {known}.", reason="INVALID_FIELD", violations=(Violation(name[:60], f"unknown {what}"),)
    )
