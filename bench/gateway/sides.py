"""The two sides, each a process that is told to write a change to all of its connections."""

import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from jobwire_gateway import frames

from bench.gateway.source import JOB, JOBS, Source, change, token

_ROOT = Path(__file__).resolve().parents[2]


class Side(Protocol):
    """What is measured."""

    name: str
    address: tuple[str, int]
    pid: int
    first_frames: int
    """How many frames each connection gets at once."""

    def path(self, number: int) -> str:
        """What the reader with this number asks for."""

    def publish(self, number: int, padding: int = 0) -> None:
        """Let one change go to all."""


class GatewaySide:
    """A gateway with its defaults, but for how many streams it takes."""

    name = "gateway"
    first_frames = 2

    def __init__(self, source: Source, address: tuple[str, int], pid: int) -> None:
        self.address = address
        self.pid = pid
        self._source = source

    def path(self, number: int) -> str:
        return f"/v1/{JOB}/events"

    def publish(self, number: int, padding: int = 0) -> None:
        self._source.publish(number, padding)


class GuardedSide(GatewaySide):
    """A gateway that asks who its callers are, and each of them has a job and a token of its own."""

    name = "gateway with tokens"

    def path(self, number: int) -> str:
        return f"/v1/{JOBS}{number}/events?token={token(number)}"


class YardstickSide:
    """The bare app, which gets the bytes that the gateway would write."""

    name = "yardstick"
    first_frames = 1

    def __init__(self, process: "subprocess.Popen[bytes]", address: tuple[str, int]) -> None:
        self.address = address
        self.pid = process.pid
        self._process = process

    def path(self, number: int) -> str:
        return "/"

    def publish(self, number: int, padding: int = 0) -> None:
        assert self._process.stdin is not None
        data = frames.update(change(number, padding=padding)).data
        self._process.stdin.write(struct.pack("!I", len(data)) + data)
        self._process.stdin.flush()


@contextmanager
def gateway_side() -> Iterator[Side]:
    """Start it."""
    with _gateway(GatewaySide) as side:
        yield side


@contextmanager
def guarded_side() -> Iterator[Side]:
    """Start it."""
    with _gateway(GuardedSide, "--auth") as side:
        yield side


@contextmanager
def _gateway(make: type[GatewaySide], *options: str) -> Iterator[Side]:
    source = Source()
    command = (
        "-m",
        "jobwire_cli.main",
        "gateway",
        "--http",
        "127.0.0.1:0",
        "--broker",
        source.address,
        "--max-streams",
        "20000",
        "--max-stream-starts",
        "20000",
        *options,
    )
    with _process(*command) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if b"http=" in line:
                host, _, port = line.rpartition(b"http=")[2].strip().decode().strip("\"',").rpartition(":")
                break
        else:
            raise RuntimeError("the gateway did not start")
        yield make(source, (host, int(port)), process.pid)
    source.close()


@contextmanager
def yardstick_side() -> Iterator[Side]:
    """Start it."""
    with _process("-m", "bench.gateway.yardstick") as process:
        assert process.stdout is not None
        yield YardstickSide(process, ("127.0.0.1", int(process.stdout.readline())))


@contextmanager
def _process(*arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, *arguments], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
