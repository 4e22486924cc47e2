"""The two sides, each a process that is told to write a change to all of its connections."""

import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from jobwire_gateway import frames

from bench.gateway.source import JOB, Source, change

_ROOT = Path(__file__).resolve().parents[2]


class Side(Protocol):
    """What is measured."""

    name: str
    address: tuple[str, int]
    path: str
    pid: int
    first_frames: int
    """How many frames each connection gets at once."""

    def publish(self, number: int, padding: int = 0) -> None:
        """Let one change go to all."""


class GatewaySide:
    """A gateway with its defaults, but for how many streams it takes."""

    name = "gateway"
    path = f"/v1/{JOB}/events"
    first_frames = 2

    def __init__(self, source: Source, address: tuple[str, int], pid: int) -> None:
        self.address = address
        self.pid = pid
        self._source = source

    def publish(self, number: int, padding: int = 0) -> None:
        self._source.publish(number, padding)


class YardstickSide:
    """The bare app, which gets the bytes that the gateway would write."""

    name = "yardstick"
    path = "/"
    first_frames = 1

    def __init__(self, process: "subprocess.Popen[bytes]", address: tuple[str, int]) -> None:
        self.address = address
        self.pid = process.pid
        self._process = process

    def publish(self, number: int, padding: int = 0) -> None:
        assert self._process.stdin is not None
        data = frames.update(change(number, padding=padding)).data
        self._process.stdin.write(struct.pack("!I", len(data)) + data)
        self._process.stdin.flush()


@contextmanager
def gateway_side() -> Iterator[Side]:
    """Start it."""
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
    )
    with _process(*command) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if b"http=" in line:
                host, _, port = line.rpartition(b"http=")[2].strip().decode().strip("\"',").rpartition(":")
                break
        else:
            raise RuntimeError("the gateway did not start")
        yield GatewaySide(source, (host, int(port)), process.pid)
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
