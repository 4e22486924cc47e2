"""Certificates of the port, which may be exchanged while the broker runs: each new connection gets what the files hold then."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import grpc

from jobwire_broker.auth.config import TlsConfig
from jobwire_broker.certificates import PemFile, check_certificates, check_pair

log = logging.getLogger(__name__)


def server_credentials(config: TlsConfig) -> grpc.ServerCredentials:
    """Credentials that follow the files. Raises ValueError when they are of no use now."""
    files = CertificateFiles(config)
    return grpc.dynamic_ssl_server_credentials(files.read(), files.renewed, config.client_ca is not None)  # type: ignore[arg-type]  # it may say None, for "as before"


class CertificateFiles:
    """The files, and what was last read from them. gRPC asks at each handshake, on threads of its own."""

    def __init__(self, config: TlsConfig) -> None:
        self._certificate = PemFile("--tls-cert", config.certificate)
        self._key = PemFile("--tls-key", config.key)
        self._client_ca = PemFile("--tls-client-ca", config.client_ca) if config.client_ca is not None else None
        self._seen: list[tuple[int, int, int] | None] = []
        self._lock = threading.Lock()

    def read(self) -> grpc.ServerCertificateConfiguration:
        """What the files hold now. Raises ValueError when certificate and key do not fit, or a file can't be read."""
        self._seen = self._stamps()
        # This says what is wrong where gRPC would only refuse every connection.
        check_pair(self._certificate, self._key)
        if self._client_ca is not None:
            check_certificates(self._client_ca)
        pair = (self._key.read(), self._certificate.read())
        return grpc.ssl_server_certificate_configuration([pair], self._client_ca.read() if self._client_ca is not None else None)

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """What the files hold when they have changed since they were read; None to go on with what there is."""
        with self._lock:
            if self._stamps() == self._seen:
                return None
            try:
                renewed = self.read()
            except ValueError as error:
                # Most likely one file of two was exchanged so far. The next connection looks again, once the files have changed again.
                log.error("tls.not_renewed error=%s advice=%s", error, "what was read before stays in use; exchange the files once more")
                return None
            log.info("tls.renewed certificate=%s", self._certificate.path)
            return renewed

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(file.path) for file in (self._certificate, self._key, self._client_ca) if file is not None]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file; None while it can't be looked at, which is said when it is read."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
