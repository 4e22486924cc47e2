"""What is measured of one side."""

import time
from dataclasses import dataclass
from statistics import quantiles

from bench.gateway.readers import Readers
from bench.gateway.sides import Side
from bench.machine import cpu_between, read_cpu

_IN_FLIGHT = 4
"""Changes on their way at saturation: one more begins when the one so many before has arrived everywhere."""

_TIMEOUT_S = 120.0

_SETTLE_S = 1.0
_LEAD_S = 1.0

_FIRST = 100
"""Streams that are there before any is counted."""

_STALL_FRAMES, _STALL_BYTES = 40, 30_000
"""More than the buffers of the kernel and of the server hold for one reader."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured."""

    connections: tuple[int, ...] = (1_000, 10_000)
    seconds: float = 4.0
    stalled: int = 200
    runs: int = 3
    """Of each rate; the sides in turn."""
    stalled_runs: int = 15
    stalled_seconds: float = 4.0
    """Two stretches of this machine differ by 7 %, with nothing changed: a median of five pairs is 4 % off as often as not, of fifteen 2 %."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How fast frames were delivered."""

    per_s: float
    per_cpu_s: float
    """Per second of processor time that the server took: its own speed, whoever shares the machine with it."""
    cores: float
    """How much of a core it took meanwhile. Below one it waited for its readers, who need a core as well."""


QUICK = Sizes(connections=(200,), seconds=1.0, stalled=40, runs=1, stalled_runs=1, stalled_seconds=1.0)


def open_all(side: Side, count: int, first: int = 0) -> Readers:
    """Open streams, numbered from the first, and read until each is there."""
    readers = Readers(side.address, lambda number: side.path(first + number), count)
    readers.read(lambda: readers.frames >= count * side.first_frames, _TIMEOUT_S)
    return readers


def memory_per_connection(side: Side, count: int) -> float:
    """Bytes of resident memory per idle connection, of a process that had few before: what many have left behind would be used again, and not be seen.

    The first hundred stay open and are not counted: with them come code and buffers.
    """
    few = open_all(side, _FIRST)
    time.sleep(_SETTLE_S)
    before = _resident(side.pid)
    readers = open_all(side, count, _FIRST)
    time.sleep(_SETTLE_S)
    found = (_resident(side.pid) - before) / count
    readers.close()
    few.close()
    return found


def saturation(side: Side, readers: Readers, seconds: float, first: int) -> tuple[Rate, int]:
    """Let changes come as fast as they are delivered. Gives the number of the next change, too."""
    count, number = len(readers), first
    readers.forget()
    began_s, began_cpu = time.monotonic(), read_cpu({"side": side.pid})
    while time.monotonic() - began_s < seconds:
        side.publish(number)
        number += 1
        sent = number - first
        readers.read(lambda sent=sent: readers.frames >= count * (sent - _IN_FLIGHT), _TIMEOUT_S)  # type: ignore[misc]
    readers.read(lambda: readers.frames >= count * (number - first), _TIMEOUT_S)
    frames = count * (number - first)
    took_s = time.monotonic() - began_s
    cpu_s = cpu_between(began_cpu, read_cpu({"side": side.pid})).processes_s["side"]
    return Rate(per_s=frames / took_s, per_cpu_s=frames / cpu_s, cores=cpu_s / took_s), number


def delays(side: Side, readers: Readers, frames_per_s: float, seconds: float, first: int) -> tuple[dict[str, float], int]:
    """Milliseconds from a change to its arrival, at a fixed rate of frames. Gives the number of the next change, too.

    The first second is not counted: a machine that had a rest is slow for a third of one, and at this rate what is late then makes more late.
    """
    count, number = len(readers), first
    readers.forget()
    pause_s, uncounted = count / frames_per_s, 0
    due_s = time.monotonic()
    for change in range(round((_LEAD_S + seconds) / pause_s)):
        due_s += pause_s
        readers.read(lambda due_s=due_s: time.monotonic() >= due_s, _TIMEOUT_S)  # type: ignore[misc]
        if change * pause_s < _LEAD_S:
            uncounted = len(readers.delays_ns)
        side.publish(number)
        number += 1
    readers.read(lambda: readers.frames >= count * (number - first), _TIMEOUT_S)
    ordered = [delay / 1e6 for delay in sorted(readers.delays_ns[uncounted:])]
    cuts = quantiles(ordered, n=100)
    return {"p50": cuts[49], "p99": cuts[98]}, number


def stall(side: Side, readers: Readers, count: int, first: int) -> tuple[Readers, int]:
    """Open streams that are not read, and let so much come that each of them waits for its reader. Gives the number of the next change, too."""
    stalled = Readers(side.address, side.path, count, receive_buffer=4_096)
    stalled.read(lambda: stalled.frames >= count * side.first_frames, _TIMEOUT_S)
    stalled.stop_reading()
    number = first
    readers.forget()
    for _ in range(_STALL_FRAMES):
        side.publish(number, _STALL_BYTES)
        number += 1
        sent = number - first
        readers.read(lambda sent=sent: readers.frames >= len(readers) * sent, _TIMEOUT_S)  # type: ignore[misc]
    # What so much at once has stirred up, in the kernel and in the allocator, is no reader's doing.
    time.sleep(_SETTLE_S)
    return stalled, number


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))
