"""What a broker process can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

from jobwire.v1 import policy_pb2, queue_service_pb2

from jobwire_broker.auth.config import AuthConfig, TlsConfig


class NamedGroup(NamedTuple):
    """What a group is to have: weight, express and limit of `rules`. `paused` None: as it is."""

    group: str
    rules: queue_service_pb2.Group
    paused: bool | None


class NamedPolicy(NamedTuple):
    """What a queue is to have. `paused` None: as it is."""

    queue: str
    rules: policy_pb2.QueuePolicy
    paused: bool | None
    groups: tuple[NamedGroup, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BrokerConfig:
    """The options of one broker process. All of them are checked when it is made."""

    store: str = "redis://127.0.0.1:6379"
    """Where the store is: `redis://`, `rediss://` (TLS) or `unix://` with an optional user, password and database. Default: a local one.

    What TLS needs stands in the address: `rediss://host:6380?ssl_ca_certs=/etc/ca.pem`, and `ssl_certfile`, `ssl_keyfile` for a store that asks for them.
    """

    grpc: str = "127.0.0.1:7410"
    """HOST:PORT to listen on. Port 0 picks a free one."""

    metrics: str = ""
    """HOST:PORT for Prometheus. Port 0 picks a free one. Empty: no metrics, and nothing is counted.

    Nobody has to say who they are there: keep it inside your network. Another address than loopback is taken under the same conditions as for `grpc`."""

    auth: AuthConfig = field(default_factory=AuthConfig)
    """Whom the broker knows. Default: it asks nobody who they are."""

    tls: TlsConfig | None = None
    """Certificates for the port. None: plain text, which is right on loopback and behind a proxy that ends TLS."""

    insecure: bool = False
    """Listen on other addresses than loopback although nobody has to say who they are."""

    allow_eviction: bool = False
    """Accept a store whose `maxmemory-policy` may evict jobs."""

    namespace: str = "jw"
    """What all keys in the store begin with. Two namespaces in one store know nothing of each other."""

    session_time: timedelta = timedelta(seconds=10)
    """How long a silent worker keeps its jobs. From 1 s to 10 minutes. Short: crashes heal fast, but a short hiccup costs a re-run."""

    heartbeat_interval: timedelta = timedelta(seconds=2)
    """How often a worker must send some frame, and how often it is pinged. At most a third of `session_time`."""

    queues: Sequence[NamedPolicy] = ()
    """Policies that queues are to have from the start on. Other queues are left alone."""

    drain_grace: timedelta = timedelta(seconds=5)
    """How long a stopping broker waits for streams and calls to end."""

    def __post_init__(self) -> None:
        if not timedelta(seconds=1) <= self.session_time <= timedelta(minutes=10):
            raise ValueError("session_time must be from 1 s to 10 minutes")
        if self.heartbeat_interval > self.session_time / 3:
            object.__setattr__(self, "heartbeat_interval", self.session_time / 4)
        if not self.namespace.isascii() or not self.namespace.isalnum() or len(self.namespace) > 20:
            raise ValueError("namespace must be 1 to 20 letters and digits")
        for name, address in (("grpc", self.grpc), ("metrics", self.metrics)):
            if address or name == "grpc":
                self._check_address(name, address)

    def _check_address(self, name: str, address: str) -> None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{name} must be HOST:PORT, not {address!r}")
        if not (self.insecure or is_loopback(host) or self.knows_callers):
            raise ValueError(
                f"{host} is reachable from outside and nobody has to say who they are: configure --keys, JWTs or --tls-client-ca, "
                "listen on 127.0.0.1, or say --insecure"
            )

    @property
    def knows_callers(self) -> bool:
        """Whether a stranger is turned away: by credentials, or by the certificate that a connection needs."""
        return self.auth.is_on or (self.tls is not None and self.tls.client_ca is not None)


def is_loopback(host: str) -> bool:
    """Whether `host` names this machine alone."""
    return host in ("localhost", "[::1]", "::1") or host.startswith("127.")
