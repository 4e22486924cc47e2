"""A gateway process, started as a user starts it."""

import re
from collections.abc import Mapping, Sequence

from tests.support.broker import Broker
from tests.support.process import Process, python


class Gateway(Process):
    """One `jobwire gateway` in front of the brokers named. After `kill()`, `restart()` brings it back at the same address."""

    ready_line = r"gateway\.ready.*?http=(\S+)"

    def __init__(self, brokers: Broker | str | Sequence[Broker | str], *, extra: Sequence[str] = (), env: Mapping[str, str] | None = None) -> None:
        super().__init__("gateway")
        self._env = dict(env or {})
        several = [brokers] if isinstance(brokers, (Broker, str)) else list(brokers)
        self.brokers = [b.address if isinstance(b, Broker) else b for b in several]
        self.address = "127.0.0.1:0"
        self._extra = list(extra)

    @property
    def url(self) -> str:
        """For example `http://127.0.0.1:41234`, without a slash at the end."""
        return f"http://{self.address}"

    def command(self) -> list[str]:
        return python("-m", "jobwire_cli.main", "gateway", "--http", self.address, "--broker", ",".join(self.brokers), *self._extra)

    def environment(self) -> Mapping[str, str]:
        return self._env

    def on_ready(self, match: re.Match[str]) -> None:
        self.address = match[1].strip("\"',").removeprefix("http://")
        self.label = f"gateway {self.address}"
