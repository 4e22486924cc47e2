"""A broker, a gateway or webhooks as a part of `jobwire up`: this same program, started again with another command."""

import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence

from jobwire_cli.up.process import Child, ChildSpec, Ending, LineSink

_READY_TIMEOUT_S = 60.0
_STOP_GRACE_S = 20.0


class Server:
    """One server process that says `NAME.ready KEY=HOST:PORT` when it serves; `NAME.ready` where it has no address."""

    def __init__(self, name: str, *, address_flag: str = "", address: str = "", arguments: Sequence[str], secrets: Mapping[str, str], sink: LineSink) -> None:
        """Prepare a server.

        Args:
            name: the command, `broker`, `gateway` or `webhooks`.
            address_flag: `grpc` or `http`: the flag for its address, and the key in its ready line. Empty where it listens nowhere.
            address: where it listens; port 0 picks one at the first start, and restarts keep it.
            arguments: further flags, without secrets.
            secrets: settings that travel in the environment, since every user of the machine can read flags.
            sink: takes its output.
        """
        self.name = name
        self.address = address
        self._address_flag = address_flag
        self._arguments = list(arguments)
        self._secrets = dict(secrets)
        self._sink = sink
        self._child: Child | None = None

    async def start(self) -> None:
        """Start it and wait until it serves.

        Raises:
            PartFailed: it ended, or did not serve in time.
        """
        self._child = Child(self._spec(), self._sink)
        await self._child.start()
        match = await self._child.ready(_READY_TIMEOUT_S)
        if self._address_flag:
            self.address = match.group("address")

    async def wait(self) -> Ending:
        """Wait until it has ended, and say how."""
        assert self._child is not None
        await self._child.wait()
        return self._child.ending()

    async def stop(self, grace_s: float = _STOP_GRACE_S) -> None:
        """Let it drain and end. To stop what does not run is no error."""
        if self._child is not None:
            await self._child.stop(grace_s)

    def kill(self) -> None:
        """End it at once; it holds nothing that matters."""
        if self._child is not None:
            self._child.send_signal(signal.SIGKILL)

    def _spec(self) -> ChildSpec:
        address = [f"--{self._address_flag}", self.address] if self._address_flag else []
        argv = [sys.executable, "-m", "jobwire_cli", self.name, *address, *self._arguments]
        told = rf".*?\b{self._address_flag}\"?[=:]\"?(?P<address>[^\s\"',}}]+)" if self._address_flag else ""
        ready = re.compile(rf"\b{self.name}\.ready\b{told}")
        return ChildSpec(name=self.name, argv=argv, env=_environment(self._secrets), ready=ready)


def _environment(secrets: Mapping[str, str]) -> dict[str, str]:
    """Ours without what says where a store is, plus this part's own: the gateway is to know nothing of the store."""
    # Two parts cannot have one address for their metrics.
    kept = {key: value for key, value in os.environ.items() if key not in ("JOBWIRE_STORE", "JOBWIRE_METRICS") and not key.startswith("REDIS_")}
    return {**kept, "PYTHONUNBUFFERED": "1", **secrets}
