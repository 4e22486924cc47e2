"""Files of certificates and keys. What is wrong with one is said with the option that names it, its path, and what it must be."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple


class PemFile(NamedTuple):
    """A file, and the option that names it."""

    option: str
    path: Path

    def read(self) -> bytes:
        """What it holds. Raises ValueError when it can't be read, and when that is nothing: gRPC would end the process."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise ValueError(f"{self.option}: {self.path} can't be read: {error.strerror}; name a file that is there and that this user may read") from None
        if not content:
            raise ValueError(f"{self.option}: {self.path} is empty; it must hold PEM")
        return content


def check_certificates(file: PemFile) -> None:
    """Raises ValueError when it holds no certificate."""
    file.read()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file.path)
    except OSError:
        raise ValueError(f"{file.option}: {file.path} holds no certificate in PEM; it must have lines from BEGIN CERTIFICATE to END CERTIFICATE") from None


def check_pair(certificate: PemFile, key: PemFile) -> None:
    """Raises ValueError when they are not a certificate and its key."""
    check_certificates(certificate)
    key.read()
    try:
        # A key that needs a password would ask for it on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate.path, key.path, lambda: "")
    except OSError as error:
        reason = getattr(error, "reason", None)
        raise ValueError(
            f"{key.option}: {key.path} is of no use as the key of {certificate.path} ({certificate.option}){f': {reason}' if reason else ''}; "
            "it must hold the private key of that certificate, in PEM and without a password"
        ) from None
