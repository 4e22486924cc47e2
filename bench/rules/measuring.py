"""The whole measurement: each figure has two sides, which work in turn, a call's jobs each, so that whatever else runs on the machine meets both alike."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench import fairness, machine, report
from bench import groups as of_groups
from bench.contenders import ROOT
from bench.driver import Driver
from bench.report import Target
from bench.rules import before
from bench.store import Store

RESULTS = Path(__file__).resolve().parents[1] / "results" / "rules.json"
QUEUE = "bench"
WARM_JOBS = 2_000
WARM_ROUNDS = 20
SETTLE_S = 1.0
COMPLETED, FAILED = 5, 6
HOUR = "+3600000"
FEW_JOBS = 1_000
_PACKAGES = ("proto/gen/python", "broker")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything."""

    blocks: int = 5
    rounds: int = 60
    """Of each side in a block, whose figure is their median."""
    waiting_jobs: int = 30_000
    kept_jobs: int = 800
    """Together with 200 others this is the 1,000 that are kept by default."""
    many_jobs: int = 1_000_000
    fairness_runs: int = fairness.RUNS


QUICK = Sizes(blocks=3, rounds=20, waiting_jobs=10_000, many_jobs=50_000, fairness_runs=1)

OF_VERSIONS = (
    Target(key="life", title="store time per life, µs", better="less", floor=1.10, goal=1.0),
    Target(key="enqueue", title="of it: enqueue", better="less", floor=1.15, goal=1.0),
    Target(key="lease", title="of it: lease", better="less", floor=1.15, goal=1.0),
    Target(key="complete", title="of it: completion", better="less", floor=1.15, goal=1.0),
    Target(key="bytes_waiting", title="bytes per waiting job", better="less", floor=1.05, goal=1.0),
    Target(key="bytes_completed", title="bytes per kept completed job", better="less", floor=1.05, goal=1.0),
)
OF_LEASES = Target(key="lease", title="lease call with groups, µs", better="less", floor=of_groups.COST_FLOOR, goal=1.1)
OF_WAITS = Target(key="wait", title="p99 wait of nine tenants, in jobs that go first", better="less", floor=of_groups.FAIR_FLOOR, goal=1.2)
OF_CLOCK = Target(key="clock", title="p99 wait of nine tenants, ms", better="less", floor=fairness.FLOOR, goal=1.2)
OF_DELAYED = Target(key="delayed", title="lease and completion, µs a job: delayed", better="less", floor=1.1, goal=1.05)
OF_COMPLETED = Target(key="completed", title="lease and completion, µs a job: kept completed", better="less", floor=1.1, goal=1.05)
OF_FAILED = Target(key="failed", title="lease and completion, µs a job: kept failed", better="less", floor=1.1, goal=1.05)
Runs = dict[str, list[float]]


@asynccontextmanager
async def side(store: Store, tree: Path = ROOT) -> AsyncIterator[Driver]:
    """A driver with the packages of a source tree, and the queue that it works on."""
    path = os.pathsep.join(str(tree / package) for package in _PACKAGES)
    command = ["env", f"PYTHONPATH={path}", sys.executable, str(ROOT / "bench" / "rules" / "side.py")]
    settings = {"url": store.url, "socket": str(store.socket), "before": tree != ROOT}
    async with Driver("before" if tree != ROOT else "now", command, settings, ROOT) as driver:
        yield driver


async def in_turn(sides: Sequence[Driver], sizes: Sizes, do: str, **arguments: Any) -> list[Runs]:
    """Let the sides do the same in turn. Answers each side's figures: one value a block, the median of its rounds."""
    for _ in range(WARM_ROUNDS):
        for driver in sides:
            await driver.ask(do, **arguments)
    blocks: list[Runs] = [{} for _ in sides]
    for _ in range(sizes.blocks):
        rounds: list[Runs] = [{} for _ in sides]
        for number in range(sizes.rounds):
            # Who goes first finds the caches as the other has left them.
            for i in (0, 1) if number % 2 else (1, 0):
                for key, value in (await sides[i].ask(do, **arguments)).items():
                    rounds[i].setdefault(key, []).append(value)
        for block, figures in zip(blocks, rounds, strict=True):
            for key, values in figures.items():
                block.setdefault(key, []).append(median(values))
    return blocks


async def versions(then: Path, sizes: Sizes) -> list[Runs]:
    """Now and before: both libraries in one server, each with a queue of its own; then the memory of each in a server of its own."""
    async with Store() as store, side(store) as now, side(store, then) as earlier:
        for driver, name in ((now, f"{QUEUE}1"), (earlier, f"{QUEUE}2")):
            await driver.ask("queue", name=name)
            await driver.ask("end", count=WARM_JOBS, state=COMPLETED)
        found = await in_turn((now, earlier), sizes, "life")
    for runs, tree in zip(found, (ROOT, then), strict=True):
        runs["life"] = [sum(parts) for parts in zip(runs["enqueue"], runs["lease"], runs["complete"], strict=True)]
        runs["bytes_waiting"] = [await growth(tree, "make", 1_000, sizes.waiting_jobs)]
        runs["bytes_completed"] = [await growth(tree, "end", 200, sizes.kept_jobs)]
    return found


async def growth(tree: Path, do: str, first: int, jobs: int) -> float:
    """By how many bytes per job the store grows for `jobs` more that wait, or have completed and are kept."""
    async with Store() as store, side(store, tree) as driver:
        await driver.ask("queue", name=QUEUE)
        await driver.ask(do, count=first, state=COMPLETED)
        await asyncio.sleep(SETTLE_S)
        size = store.data_memory()
        await driver.ask(do, count=jobs, state=COMPLETED)
        await asyncio.sleep(SETTLE_S)
        return (store.data_memory() - size) / jobs


async def groups() -> dict[str, list[Runs]]:
    """The figures of bench/groups.py, by their keys."""
    found = await of_groups.measure()
    cost, fairness = found["lease_cost"], found["fairness"]
    return {
        "lease": [{"lease": [cost[f"us_with_{count}"]]} for count in (of_groups.MANY, of_groups.FEW)],
        "wait": [{"wait": [fairness[key]]} for key in ("p99_beside_flood", "p99_alone")],
    }


async def beside(sizes: Sizes, key: str, do: str, state: int = 0, **arguments: Any) -> list[Runs]:
    """Lives in a queue that has many jobs which `do` has made, and in one that has few. Where they are in a final state, just so many of them are kept.

    Both are in one server: where millions of jobs came and went, memory is slower for all that comes later, whatever is kept of them.
    """
    async with Store() as store, side(store) as crowded, side(store) as empty:
        for driver, name, count in ((crowded, f"{QUEUE}1", sizes.many_jobs), (empty, f"{QUEUE}2", FEW_JOBS)):
            await driver.ask("queue", name=name, keep={state: count} if state else {})
            kept = (await driver.ask(do, count=count, state=state, **arguments)).get("kept", count)
            if kept != count:
                raise SystemExit(f"bench: the store keeps {kept:,} jobs of {count:,}, so there is nothing to compare")
        found = await in_turn((crowded, empty), sizes, "life")
    return [{key: [lease + complete for lease, complete in zip(runs["lease"], runs["complete"], strict=True)]} for runs in found]


async def measure(sizes: Sizes) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Measure everything: tables, each with the names of its sides."""
    tables = []
    with before.sources() as then:
        if then:
            tables.append(note("now", "before", OF_VERSIONS, await versions(then, sizes)))
        else:
            print(f"left out: now against before, for the history does not go back to {before.COMMIT}; a full clone has it", flush=True)
    grouped = await groups()
    tables.append(note(f"{of_groups.MANY:,}", str(of_groups.FEW), (OF_LEASES,), grouped["lease"]))
    beside_flood, alone = await fairness.measure(sizes.fairness_runs)
    waits = [{**runs, "clock": clock} for runs, clock in zip(grouped["wait"], (beside_flood, alone), strict=True)]
    tables.append(note("a flood", "none", (OF_WAITS, OF_CLOCK), waits))
    many, few = f"{sizes.many_jobs:,}", f"{FEW_JOBS:,}"
    tables.append(note(many, few, (OF_DELAYED,), await beside(sizes, "delayed", "make", due=HOUR)))
    for target, state in ((OF_COMPLETED, COMPLETED), (OF_FAILED, FAILED)):
        tables.append(note(many, few, (target,), await beside(sizes, target.key, "end", state=state)))
    return tables


def note(ours: str, theirs: str, targets: tuple[Target, ...], found: list[Runs]) -> tuple[str, str, list[dict[str, Any]]]:
    """Compare two sides, and print it at once: it takes minutes until all is there."""
    rows = report.compare(targets, *found)
    print(f"\n{report.table(rows, ours, theirs)}", flush=True)
    return ours, theirs, rows


def main(*, quick: bool, strict: bool) -> int:
    """Measure, print tables, write the JSON file. 1 when `strict` and a floor is missed."""
    sizes = QUICK if quick else Sizes()
    began = time.monotonic()
    tables = asyncio.run(measure(sizes))
    results = {
        "machine": {**machine.facts(), "seconds": round(time.monotonic() - began)},
        "tables": [{"ours": ours, "theirs": theirs, "figures": rows} for ours, theirs, rows in tables],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    missed = report.missed([row for _, _, rows in tables for row in rows])
    for line in missed:
        print(line)
    print(f"\nwritten to {RESULTS.relative_to(ROOT)}")
    return 1 if strict and missed else 0
