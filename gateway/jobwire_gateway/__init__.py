"""The HTTP side of Jobwire: REST, event streams for browsers, and a live page. It knows the broker's gRPC contract and nothing of the store."""

from jobwire_gateway.config import ConfigError, GatewayConfig

__all__ = ["ConfigError", "GatewayConfig"]
