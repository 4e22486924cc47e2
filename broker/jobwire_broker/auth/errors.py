"""Why a caller is turned away. `detail` is for the log and the metrics alone: a word that says more than the caller is told.

BrokerError
├── CredentialsMissing    nothing says who the caller is
├── CredentialsInvalid    the key or token is unknown, malformed or not for here
├── CredentialsExpired    its time is over, or the ticket is spent
├── NotPermitted          the caller is known and may not do this
└── KeysAway              the keys that verify tokens can't be had
"""

from __future__ import annotations

import grpc

from jobwire_broker.auth.identity import Identity
from jobwire_broker.errors import BrokerError


class Refused(BrokerError):
    """What all of them have in common."""

    def __init__(self, message: str, *, detail: str = "", verb: str = "", queue: str = "") -> None:
        super().__init__(message, metadata={key: value for key, value in (("verb", verb), ("queue", queue)) if value})
        self.detail = detail or self.reason.lower()
        self.identity: Identity | None = None
        """Who was turned away, when that is known."""


class CredentialsMissing(Refused):
    """Raised when nothing says who the caller is."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "CREDENTIALS_MISSING"


class CredentialsInvalid(Refused):
    """Raised when the key or token is unknown, malformed or not for here."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "CREDENTIALS_INVALID"


class CredentialsExpired(Refused):
    """Raised when the key or token has expired, or the ticket is spent."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "CREDENTIALS_EXPIRED"


class NotPermitted(Refused):
    """Raised when the caller is known and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "NOT_PERMITTED"


class KeysAway(Refused):
    """Raised when no key that verifies tokens was ever had."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "KEYS_UNAVAILABLE"
    retry_after_s = 5.0
