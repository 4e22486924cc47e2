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

from jobwire_gateway.certificates import PemFile, check_certificates, check_pair

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
        if self.has_key:
            self.authorization()
        self.check_files()

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
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ValueError(f"JOBWIRE_API_KEY_FILE: {self.key_file} cannot be read: {reason}") from None
        if not 1 <= len(key) <= MAX_CREDENTIALS or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("the API key is empty, too long, or holds characters that cannot be sent")
        return f"Bearer {key}"

    def check_files(self) -> None:
        """Look whether the files of certificates and authorities can be used. Raises ValueError, which names the file."""
        authorities, certificate, key = self._files
        if authorities is not None:
            check_certificates(authorities)
        if certificate is not None and key is not None:
            check_pair(certificate, key)

    def stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        """What changes with the files of certificates and authorities."""
        return tuple(_stamp(file.path) for file in self._files if file is not None)

    def channel(self, address: str, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
        """A connection to one broker, with what the files hold now: as long as it lives, it connects with that. Raises ValueError."""
        if not self.ca:
            return grpc.aio.insecure_channel(address, options=options)
        # With a file that is of no use gRPC would make a channel that never connects.
        self.check_files()
        authorities, certificate, key = (file.read() if file is not None else None for file in self._files)
        return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(authorities, key, certificate), options=options)

    @property
    def _files(self) -> tuple[PemFile | None, PemFile | None, PemFile | None]:
        """That of the authorities, of the certificate, and of its key."""
        return (
            PemFile("JOBWIRE_TLS_CA", Path(self.ca)) if self.ca not in ("", SYSTEM) else None,
            PemFile("JOBWIRE_CLIENT_CERT", self.certificate) if self.certificate is not None else None,
            PemFile("JOBWIRE_CLIENT_KEY", self.certificate_key) if self.certificate_key is not None else None,
        )


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file; None while it can't be looked at."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
