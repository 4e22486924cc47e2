"""Certificates of the port, which may be exchanged while the broker runs: each new connection gets what the files hold then."""

from __future__ import annotations

import logging
import os
import ssl
import threading

import grpc

from jobwire_broker.auth.config import TlsConfig

log = logging.getLogger(__name__)


def server_credentials(config: TlsConfig) -> grpc.ServerCredentials:
    """Credentials that follow the files. Raises ValueError when they are of no use now."""
    files = CertificateFiles(config)
    return grpc.dynamic_ssl_server_credentials(files.read(), files.renewed, config.client_ca is not None)  # type: ignore[arg-type]  # it may say None, for "as before"


class CertificateFiles:
    """The files, and what was last read from them. gRPC asks at each handshake, on threads of its own."""

    def __init__(self, config: TlsConfig) -> None:
        self._config = config
        self._paths = [path for path in (config.certificate, config.key, config.client_ca) if path is not None]
        self._seen: list[tuple[int, int, int]] = []
        self._lock = threading.Lock()

    def read(self) -> grpc.ServerCertificateConfiguration:
        """What the files hold now. Raises ValueError when certificate and key do not fit, or a file can't be read."""
        self._seen = self._stamps()
        try:
            # It says what is wrong where gRPC would only refuse every connection.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._config.certificate, self._config.key)
            certificate, key, *authorities = (path.read_bytes() for path in self._paths)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"the certificate {self._config.certificate} and its key {self._config.key} are of no use: {error}") from None
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authorities[0] if authorities else None)

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """What the files hold when they have changed since they were read; None to go on with what there is."""
        with self._lock:
            try:
                if self._stamps() == self._seen:
                    return None
                renewed = self.read()
            except (OSError, ValueError) as error:
                # Most likely one file of two was exchanged so far. The next connection looks again, once the files have changed again.
                log.error("tls.not_renewed error=%s", error)
                return None
            log.info("tls.renewed certificate=%s", self._config.certificate)
            return renewed

    def _stamps(self) -> list[tuple[int, int, int]]:
        return [(status.st_mtime_ns, status.st_size, status.st_ino) for status in map(os.stat, self._paths)]
