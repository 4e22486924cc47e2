"""What a gateway process is told when it starts."""

from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import urlsplit

from limits import parse as parse_rate

from jobwire_gateway.addresses import Network, networks
from jobwire_gateway.credentials import BrokerCredentials

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")


class ConfigError(ValueError):
    """Raised when a setting makes no sense. The message names the setting and says what would be good."""


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """How a gateway listens, whom it asks, and how much it holds. All fields have defaults for one machine."""

    http: str = "127.0.0.1:8080"
    """HOST:PORT to listen on. Port 0 takes a free one. An IPv6 host stands in brackets. Anything but loopback needs `insecure`."""

    broker: str = "127.0.0.1:7410"
    """HOST:PORT of the broker, or several with commas between. One is used at a time; the next is tried when it fails."""

    credentials: BrokerCredentials = field(default_factory=BrokerCredentials)
    """How brokers are reached, and the gateway's own key, which needs the scope `watch:*`. Callers bring their own."""

    auth: bool | None = None
    """Whether callers must say who they are; the broker says whose credentials are whose. None: when the gateway has a key of its own."""

    metrics: str = ""
    """HOST:PORT for Prometheus. Port 0 takes a free one. Empty: no metrics, and nothing is counted. Nobody has to say who they are there."""

    insecure: bool = False
    """Serve addresses other than loopback although nobody has to say who they are. Default no."""

    allowed_origins: tuple[str, ...] = ()
    """Other origins whose pages may use this gateway, with tokens and never with cookies: `https://app.example`."""

    trusted_proxies: tuple[str, ...] = ()
    """Networks whose `X-Forwarded-For` is believed, for example `10.0.0.0/8`. Empty: nobody's."""

    request_rate: str = ""
    """How many requests an identity, or an address where there are none, may make in this process: `100/second`. Empty: any number."""

    attempt_rate: str = "20/10second"
    """How many requests with credentials that nobody knows one address may make before none of its requests is looked at for a while."""

    max_streams_per_address: int = 0
    """Open streams of one address. 0 is no limit, since everybody behind one proxy or office may have the same address."""

    max_streams_per_identity: int = 0
    """Open streams of one identity. 0 is no limit."""

    max_streams_per_tenant: int = 0
    """Open streams of all identities of one tenant. 0 is no limit."""

    allowed_hosts: tuple[str, ...] = ()
    """Host names that requests may ask for. Empty: on loopback `localhost`, `127.0.0.1` and `::1`, else any."""

    drain: timedelta = timedelta(seconds=5)
    """How long the open streams are spread over when the process is told to end. 0 closes them at once."""

    heartbeat: timedelta = timedelta(seconds=15)
    """A stream is never silent for longer. At least 1 s; proxies give up after 60 s or so."""

    retry: timedelta = timedelta(seconds=2)
    """How long a browser waits at least before it reconnects; each gets up to as much again at random."""

    call_timeout: timedelta = timedelta(seconds=5)
    """How long a call to the broker may take, except an enqueue that waits for the disk, which gets twice as long."""

    max_streams: int = 10_000
    """Open streams in this process. One more is told to come back later."""

    max_stream_starts: int = 1_000
    """Streams that begin in a second, in the long run; twice as many may at once. One more is told to come back later."""

    max_topics: int = 100
    """Topics on one stream, and in one message of a WebSocket."""

    max_topics_total: int = 50_000
    """Topics of all streams of this process together, at most 90,000: the broker takes 100,000 on a feed. A stream that would need one more is told to
    come back later."""

    max_streams_per_topic: int = 10_000
    """Open streams that watch one topic. One more is told to come back later."""

    max_body_bytes: int = 2 * 1024 * 1024
    """The largest request body."""

    max_lines_bytes: int = 64 * 1024 * 1024
    """The largest request body with a job in each line; a line may be as large as another body."""

    max_wait: timedelta = timedelta(seconds=60)
    """How long a request may wait for a job's end. Who asks for more waits this long."""

    max_header_bytes: int = 32 * 1024
    """The largest request head: the line and all headers together."""

    mailbox_frames: int = 256
    """How many frames may wait for one slow reader before it gets the latest instead of all."""

    mailbox_bytes: int = 256 * 1024
    """The same bound in bytes. One frame larger than this still passes."""

    def __post_init__(self) -> None:
        host, _ = split_address(self.http, "http")
        if not (self.insecure or self.asks_callers or host in LOOPBACK_HOSTS):
            raise ConfigError(
                f"http: {host} is not a loopback address, and nobody has to say who they are; give the gateway a key (JOBWIRE_API_KEY_FILE), use 127.0.0.1, "
                "or --insecure to serve it all the same"
            )
        self._check_callers()
        if self.metrics:
            self._check_metrics()
        for address in self.brokers:
            split_address(address, "broker")
        if self.heartbeat < timedelta(seconds=1):
            raise ConfigError("heartbeat: at least 1 s")
        if self.drain < timedelta(0) or self.retry < timedelta(0) or self.call_timeout <= timedelta(0):
            raise ConfigError("drain, retry and call_timeout: a length of time, not a negative one")
        if self.max_wait < timedelta(0):
            raise ConfigError("max_wait: a length of time, not a negative one")
        for bound in (
            "max_streams",
            "max_stream_starts",
            "max_topics",
            "max_topics_total",
            "max_streams_per_topic",
            "max_body_bytes",
            "max_lines_bytes",
            "max_header_bytes",
            "mailbox_frames",
            "mailbox_bytes",
        ):
            if getattr(self, bound) < 1:
                raise ConfigError(f"{bound}: at least 1")
        if self.max_topics_total > 90_000:
            raise ConfigError("max_topics_total: at most 90000, since a broker takes 100000 on one feed")

    def _check_callers(self) -> None:
        for origin in self.allowed_origins:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or not parts.netloc or f"{parts.scheme}://{parts.netloc}" != origin:
                raise ConfigError(f"allowed_origins: {origin!r} is no origin, such as https://app.example; there is no wildcard")
        try:
            networks(self.trusted_proxies)
        except ValueError as error:
            raise ConfigError(f"trusted_proxies: {error}") from None
        for setting in ("request_rate", "attempt_rate"):
            rate = getattr(self, setting)
            try:
                parse_rate(rate or "1/second")
            except ValueError:
                raise ConfigError(f"{setting}: {rate!r} is no rate, such as 100/second") from None
        if not self.attempt_rate:
            raise ConfigError("attempt_rate: a rate, such as 20/10second")
        for cap in ("max_streams_per_address", "max_streams_per_identity", "max_streams_per_tenant"):
            if getattr(self, cap) < 0:
                raise ConfigError(f"{cap}: 0 for no limit, or a number")

    @property
    def asks_callers(self) -> bool:
        """Whether callers must say who they are."""
        return self.credentials.has_key if self.auth is None else self.auth

    @property
    def proxies(self) -> tuple[Network, ...]:
        """The trusted proxies."""
        return networks(self.trusted_proxies)

    def _check_metrics(self) -> None:
        host, _ = split_address(self.metrics, "metrics")
        if not (self.insecure or self.asks_callers or host in LOOPBACK_HOSTS):
            raise ConfigError(f"metrics: {host} is not a loopback address; use 127.0.0.1, or --insecure to serve it all the same")

    @property
    def brokers(self) -> tuple[str, ...]:
        """The broker addresses, in the order given."""
        return tuple(part.strip() for part in self.broker.split(","))

    @property
    def hosts(self) -> tuple[str, ...]:
        """The host names that requests may ask for; empty for any."""
        if self.allowed_hosts:
            return self.allowed_hosts
        return LOOPBACK_HOSTS if split_address(self.http, "http")[0] in LOOPBACK_HOSTS else ()


def split_address(address: str, setting: str) -> tuple[str, int]:
    """Split HOST:PORT.

    Raises:
        ConfigError: it is not of that form. `setting` is what the message calls it.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{setting}: {address!r} is not HOST:PORT, for example 127.0.0.1:8080")
    host = host.removeprefix("[").removesuffix("]")
    if not host:
        raise ConfigError(f"{setting}: {address!r} names no host, for example 127.0.0.1:{port}")
    return host, int(port)
