"""What the machine is, and who used its processors while we measured."""

import asyncio
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def facts() -> dict[str, str | int]:
    """Return cores, processor, memory, kernel and runtime versions."""
    return {
        "cores": os.cpu_count() or 0,
        "cpu": _cpu_model(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "node": subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip(),
    }


def _cpu_model() -> str:
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


@dataclass(frozen=True)
class CpuReading:
    """CPU seconds so far: of the whole machine, and of each of our processes."""

    machine_s: float
    processes_s: dict[str, float]
    wall_s: float


def read_cpu(pids: dict[str, int]) -> CpuReading:
    """Read the counters of the machine, of the given processes and of this one (as `harness`)."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    busy_ticks = sum(fields) - fields[3] - fields[4]
    processes = {name: _process_s(pid) for name, pid in {**pids, "harness": os.getpid()}.items()}
    return CpuReading(busy_ticks / _TICKS_PER_S, processes, os.times().elapsed)


def _process_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


@dataclass(frozen=True)
class CpuUse:
    """Who used the processors between two readings."""

    processes_s: dict[str, float]
    others_cores: float
    """How many cores, on average, programs that are not ours took. Above 0.2 the figure is disturbed."""


def cpu_between(before: CpuReading, after: CpuReading) -> CpuUse:
    """Return what was used from `before` to `after`."""
    processes = {name: after.processes_s[name] - before.processes_s[name] for name in before.processes_s}
    wall_s = max(after.wall_s - before.wall_s, 1e-9)
    return CpuUse(processes, max(0.0, (after.machine_s - before.machine_s - sum(processes.values())) / wall_s))


async def wait_until_quiet(limit_s: float, cores: float) -> None:
    """Return when other programs took less than `cores` for half a second, or after `limit_s`."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        before = read_cpu({})
        await asyncio.sleep(0.5)
        if cpu_between(before, read_cpu({})).others_cores < cores:
            return
