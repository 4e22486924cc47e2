"""A broker and a gateway that look again soon at what others look at every ten or fifteen seconds, and for which there is no setting.

Each is a process of its own in which nothing else is other than a user's: run as `python -m tests.support.hasty`, this is the `jobwire` command.
"""

from collections.abc import Sequence
from functools import partial

from tests.support.broker import Broker
from tests.support.gateway import Gateway

KEPT_S = 0.5
COOLDOWN_S = 0.0


class HastyBroker(Broker):
    """It fetches the keys of an identity provider again for every token that names an unknown one."""

    def command(self) -> list[str]:
        return _hasty(super().command())


class HastyGateway(Gateway):
    """It asks the broker twice a second whether the credentials of open streams are still good."""

    def command(self) -> list[str]:
        return _hasty(super().command())


def _hasty(command: Sequence[str]) -> list[str]:
    return ["tests.support.hasty" if word == "jobwire_cli.main" else word for word in command]


def _run() -> None:
    from jobwire_broker.auth import jwks, jwts
    from jobwire_gateway import access

    # Before anything takes them as a default.
    access.KEPT_S = KEPT_S
    jwts.Jwks = partial(jwks.Jwks, cooldown_s=COOLDOWN_S)  # type: ignore[assignment,attr-defined]

    from jobwire_cli.main import main

    main()


if __name__ == "__main__":
    _run()
