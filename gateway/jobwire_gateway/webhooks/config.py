"""What a process that delivers webhooks is told when it starts."""

from dataclasses import dataclass, field
from datetime import timedelta

from jobwire_gateway.addresses import Network
from jobwire_gateway.config import LOOPBACK_HOSTS, ConfigError, split_address
from jobwire_gateway.credentials import BrokerCredentials
from jobwire_gateway.webhooks.endpoints import Endpoint


@dataclass(frozen=True, kw_only=True)
class WebhookSettings:
    """What the file says."""

    endpoints: tuple[Endpoint, ...]
    """Where to, 1 to 1,000."""

    queue: str = "webhooks"
    """The queue of the deliveries."""

    look_back: timedelta = timedelta(minutes=15)
    """How old an end may be that was missed and is told still. 0: none is."""

    timeout: timedelta = timedelta(seconds=20)
    """How long a receiver may take to answer."""

    concurrency: int = 20
    """How many requests are under way at once."""

    allow_private: tuple[Network, ...] = ()
    """Networks that are not public and may be sent to all the same."""


@dataclass(frozen=True, kw_only=True)
class WebhookConfig:
    """Whom the process asks, and what it does."""

    settings: WebhookSettings

    broker: str = "127.0.0.1:7410"
    """HOST:PORT of the broker, or several with commas between."""

    credentials: BrokerCredentials = field(default_factory=BrokerCredentials)
    """How brokers are reached, and the key."""

    metrics: str = ""
    """HOST:PORT for Prometheus. Port 0 takes a free one. Empty: no metrics."""

    insecure: bool = False
    """Serve metrics on other addresses than loopback."""

    def __post_init__(self) -> None:
        for address in self.brokers:
            split_address(address, "broker")
        if self.metrics:
            host, _ = split_address(self.metrics, "metrics")
            if not (self.insecure or self.credentials.has_key or host in LOOPBACK_HOSTS):
                raise ConfigError(f"metrics: {host} is not a loopback address; use 127.0.0.1, or --insecure to serve it all the same")

    @property
    def brokers(self) -> tuple[str, ...]:
        """The broker addresses, in the order given."""
        return tuple(part.strip() for part in self.broker.split(","))
