"""Page sizes and page tokens. A token carries a sum over its list and its cursor, so it is refused anywhere else, and when it was changed."""

from __future__ import annotations

import base64
import binascii
import hashlib

from jobwire_broker.errors import InvalidField

DEFAULT_SIZE = 100
MAX_SIZE = 1000


def page_size(size: int) -> int:
    """How many to answer. Raises InvalidField."""
    if not 0 <= size <= MAX_SIZE:
        raise InvalidField(f"page_size must be from 1 to {MAX_SIZE}, or 0 for {DEFAULT_SIZE}; it is {size}", field="page_size")
    return size or DEFAULT_SIZE


def _mark(of: str, cursor: bytes) -> bytes:
    return hashlib.sha256(of.encode() + b"\0" + cursor).digest()[:6]


def make_token(of: str, cursor: bytes) -> str:
    """The token of the page that begins after `cursor` in list `of`; empty when there is none."""
    return base64.urlsafe_b64encode(_mark(of, cursor) + cursor).decode().rstrip("=") if cursor else ""


def read_token(of: str, token: str) -> bytes:
    """The cursor in a token. Raises InvalidField when it is of another list."""
    if not token:
        return b""
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) <= 6 or raw[:6] != _mark(of, raw[6:]):
        raise InvalidField("page_token is not from this list: begin at the first page", field="page_token", reason="PAGE_TOKEN_INVALID")
    return raw[6:]
