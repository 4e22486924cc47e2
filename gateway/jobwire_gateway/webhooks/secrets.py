"""Secrets of endpoints, and the signature that is made with them (Standard Webhooks 1.0, `v1`).

A secret stands in a file or a variable and never among the settings. It is read at each use, so a file that is renewed is followed without a restart.
"""

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PREFIX = "whsec_"
MIN_BYTES, MAX_BYTES = 24, 64
_MAX_TEXT = 1024
_GOOD = f"{PREFIX} and the base64 of {MIN_BYTES} to {MAX_BYTES} bytes"


class SecretUnreadable(ValueError):
    """Raised when a secret is not there, or is none. The message says where it was looked for, and nothing of what stands there."""


@dataclass(frozen=True)
class Secret:
    """Where a secret is: a file, or a variable of the environment."""

    file: Path | None = None
    variable: str = ""

    def __str__(self) -> str:
        return f"the file {self.file}" if self.file is not None else f"the variable {self.variable}"

    def key(self, environment: Mapping[str, str] = os.environ) -> bytes:
        """The key itself. Raises SecretUnreadable."""
        text = self._text(environment).strip()
        if not text.startswith(PREFIX):
            raise SecretUnreadable(f"{self} must hold {_GOOD}")
        try:
            key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raise SecretUnreadable(f"{self} must hold {_GOOD}; what is behind {PREFIX} is no base64") from None
        if not MIN_BYTES <= len(key) <= MAX_BYTES:
            raise SecretUnreadable(f"{self} must hold {_GOOD}; it has {len(key)}")
        return key

    def _text(self, environment: Mapping[str, str]) -> str:
        if self.file is None:
            if self.variable not in environment:
                raise SecretUnreadable(f"{self} is not set; it must hold {_GOOD}")
            return environment[self.variable]
        try:
            with self.file.open("rb") as file:
                return file.read(_MAX_TEXT).decode("ascii")
        except (OSError, ValueError) as error:  # ValueError: no ASCII, or a path that can't be one
            raise SecretUnreadable(f"{self} can't be read: {type(error).__name__}; it must hold {_GOOD}") from None


def signature(keys: Iterable[bytes], delivery_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature per key, so that a receiver that knows one of them is content while keys change."""
    content = f"{delivery_id}.{timestamp}.".encode() + body
    return " ".join("v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in keys)
