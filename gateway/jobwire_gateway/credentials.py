"""How this process connects to brokers: over TLS or not, and with which credentials of its own.

The credentials are read when they are needed, so a file that is renewed is followed without a restart: a key at once, certificates when a broker cannot be
reached with the old ones. They appear in no message and no log.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

MAX_CREDENTIALS = 8192
SYSTEM = "system"
"""In the place of a file of authorities: those that this machine trusts."""


@dataclass(frozen=True, kw_only=True)
class BrokerCredentials:
    """What a connection to a broker needs. The default is plain text and no credentials, as on one machine."""

    key: str = field(default="", repr=False)
    """An API key or a token."""

    key_file: Path | None = None
    """A file that holds one. Read at each use, so it may be renewed."""

    ca: str = ""
    """TLS: a file with the authorities that the broker's certificate must be of, or `system`. Empty: plain text."""

    certificate: Path | None = None
    """A client certificate in PEM, for brokers that want one."""

    certificate_key: Path | None = None
    """Its key."""

    def __post_init__(self) -> None:
        if self.key and self.key_file is not None:
            raise ValueError("api_key: give JOBWIRE_API_KEY or JOBWIRE_API_KEY_FILE, not both")
        if (self.certificate is None) != (self.certificate_key is None):
            raise ValueError("client_cert: a certificate needs its key, and a key its certificate")
        if self.certificate is not None and not self.ca:
            raise ValueError("client_cert: a certificate is shown over TLS alone; say which authorities to trust (JOBWIRE_TLS_CA)")
        for path in (self.key_file, Path(self.ca) if self.ca not in ("", SYSTEM) else None, self.certificate, self.certificate_key):
            if path is not None and not path.is_file():
                raise ValueError(f"{path} is no file")
        if self.has_key:
            self.authorization()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "BrokerCredentials":
        """JOBWIRE_API_KEY or JOBWIRE_API_KEY_FILE, JOBWIRE_TLS_CA, JOBWIRE_CLIENT_CERT and JOBWIRE_CLIENT_KEY.

        Raises:
            ValueError: they do not fit, or a file is missing. The message holds no secret.
        """

        def file(name: str) -> Path | None:
            return Path(environment[name]) if environment.get(name) else None

        return cls(
            key=environment.get("JOBWIRE_API_KEY", ""),
            key_file=file("JOBWIRE_API_KEY_FILE"),
            ca=environment.get("JOBWIRE_TLS_CA", ""),
            certificate=file("JOBWIRE_CLIENT_CERT"),
            certificate_key=file("JOBWIRE_CLIENT_KEY"),
        )

    @property
    def has_key(self) -> bool:
        """Whether there is a key to send."""
        return bool(self.key or self.key_file)

    def authorization(self) -> str | None:
        """The metadata `authorization`; None without a key.

        Raises:
            ValueError: the file cannot be read, or what it holds cannot be sent.
        """
        if not self.has_key:
            return None
        try:
            key = self.key_file.read_text("utf-8").strip() if self.key_file is not None else self.key.strip()
        except (OSError, UnicodeError) as error:
            raise ValueError(f"the key file {self.key_file} cannot be read: {type(error).__name__}") from None
        if not 1 <= len(key) <= MAX_CREDENTIALS or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("the API key is empty, too long, or holds characters that cannot be sent")
        return f"Bearer {key}"

    def stamps(self) -> tuple[tuple[int, int, int], ...]:
        """What changes with the files of certificates and authorities. Raises OSError."""
        paths = (Path(self.ca) if self.ca not in ("", SYSTEM) else None, self.certificate, self.certificate_key)
        found = [os.stat(path) for path in paths if path is not None]
        return tuple((status.st_mtime_ns, status.st_size, status.st_ino) for status in found)

    def channel(self, address: str, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
        """A connection to one broker, with what the files hold now: as long as it lives, it connects with that. Raises OSError."""
        if not self.ca:
            return grpc.aio.insecure_channel(address, options=options)
        authorities = None if self.ca == SYSTEM else Path(self.ca).read_bytes()
        chain = self.certificate.read_bytes() if self.certificate is not None else None
        key = self.certificate_key.read_bytes() if self.certificate_key is not None else None
        return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(authorities, key, chain), options=options)
