"""The benchmark's program. See README.md."""

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from bench import figures, machine, report
from bench.contenders import ROOT, BullMq, BullMqSettings, Contender, Jobwire, JobwireSettings
from bench.figures import QUICK, Readings, Sizes
from bench.gateway import measuring as gateway
from bench.rules import measuring as rules
from bench.scale import scale
from bench.store import Store

Measure = Callable[[Contender[Any], Sizes], Awaitable[Readings]]

MEASURES: dict[str, Measure] = {
    "sustained": figures.sustained,
    "drain": figures.bulk_and_drain,
    "lanes": figures.lanes,
    "latency": figures.latency,
    "memory": figures.memory,
}


def main() -> int:
    """Run the benchmark; 0 when it ran, whatever the figures say, unless --strict asks for the floors."""
    arguments = parse(sys.argv[1:])
    if arguments.only == ["gateway"]:
        return gateway.main(quick=arguments.quick, strict=arguments.strict)
    if arguments.only == ["rules"]:
        return rules.main(quick=arguments.quick, strict=arguments.strict)
    install_bullmq()
    results = asyncio.run(run(arguments))
    report.write(results)
    show(results)
    missed = [row["figure"] for row in [*results["figures"], *results["scale"]] if row.get("verdict") == "MISSED"]
    missed_by_gateway = gateway.main(quick=arguments.quick, strict=arguments.strict) if not arguments.only or "gateway" in arguments.only else 0
    missed_by_rules = rules.main(quick=arguments.quick, strict=arguments.strict) if not arguments.only or "rules" in arguments.only else 0
    return 1 if (arguments.strict and missed) or missed_by_gateway or missed_by_rules else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line. BENCH_QUICK=1 is the same as --quick."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Jobwire beside BullMQ, in one run.")
    parser.add_argument("--quick", action="store_true", default=os.environ.get("BENCH_QUICK") == "1", help="one short run of everything, for a smoke test")
    parser.add_argument("--only", choices=[*MEASURES, "scale", "gateway", "rules"], action="append", help="measure this alone; may be repeated")
    parser.add_argument("--side", choices=["jobwire", "bullmq"], help="measure one side alone")
    parser.add_argument("--runs", type=int, help="how many interleaved runs")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="write a cProfile of broker, producer and worker there; use with --side jobwire --only …")
    parser.add_argument("--set", action="append", default=[], metavar="SIDE.NAME=VALUE", help="change a setting, for example bullmq.concurrency=200")
    parser.add_argument(
        "--patience", type=float, default=0.0, metavar="S", help="wait so long for a quiet machine before each measurement, and repeat a disturbed one twice"
    )
    parser.add_argument("--strict", action="store_true", help="fail when a floor is missed")
    return parser.parse_args(arguments)


def install_bullmq() -> None:
    """Install BullMQ as locked, once."""
    folder = ROOT / "bench" / "bullmq"
    if shutil.which("npm") is None:
        raise SystemExit("bench: node and npm are needed for the BullMQ side")
    if not (folder / "node_modules" / "bullmq").exists():
        # Not `npm ci`: it refuses a lock that names an optional package's binaries for Linux alone.
        subprocess.run(["npm", "install", "--no-save", "--no-audit", "--no-fund"], cwd=folder, check=True)


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for and return what report.write takes."""
    sizes = QUICK if arguments.quick else Sizes()
    if arguments.runs:
        sizes = replace(sizes, runs=arguments.runs, scale_runs=arguments.runs)
    contenders = make_contenders(arguments)
    wanted = arguments.only or [*MEASURES, "scale"]
    started = time.monotonic()
    readings = await interleave(contenders, {name: MEASURES[name] for name in MEASURES if name in wanted}, sizes, arguments.patience)
    jobwire = contenders.get("jobwire")
    scales = await scale(jobwire, sizes) if "scale" in wanted and isinstance(jobwire, Jobwire) else {"small": {}, "large": {}}
    runs = {name: merge(of_contender) for name, of_contender in readings.items()}
    return {
        "machine": {**machine.facts(), "store": await store_version(), "seconds": round(time.monotonic() - started)},
        "sizes": asdict(sizes),
        "settings": {name: asdict(contender.settings) for name, contender in contenders.items()},
        "figures": report.compare(report.TARGETS, runs.get("jobwire", {}), runs.get("bullmq", {})),
        "scale": report.compare(report.SCALE_TARGETS, scales["large"], scales["small"]),
        "runs": runs,
        "cpu_us_per_job": {name: merge_nested([reading.cpu_us_per_job for reading in of]) for name, of in readings.items()},
        "others_cores": {name: merge([reading.others_cores for reading in of]) for name, of in readings.items()},
    }


def make_contenders(arguments: argparse.Namespace) -> dict[str, Contender[Any]]:
    """Build the sides that take part, with the settings that were changed on the command line."""
    changes: dict[str, dict[str, Any]] = {"jobwire": {}, "bullmq": {}}
    for change in arguments.set:
        side, _, assignment = change.partition(".")
        name, _, value = assignment.partition("=")
        changes[side][name] = literal(value)
    if arguments.profile:
        arguments.profile.mkdir(parents=True, exist_ok=True)
        changes["jobwire"]["profile_dir"] = str(arguments.profile.resolve())
    sides: dict[str, Contender[Any]] = {
        "jobwire": Jobwire(replace(JobwireSettings(), **changes["jobwire"])),
        "bullmq": BullMq(replace(BullMqSettings(), **changes["bullmq"])),
    }
    return {name: side for name, side in sides.items() if arguments.side in (None, name)}


def literal(text: str) -> Any:
    """Read a setting's value: none, true, false, a whole number, or text."""
    words: dict[str, Any] = {"none": None, "true": True, "false": False}
    return words[text] if text in words else int(text) if text.isdigit() else text


async def interleave(contenders: dict[str, Contender[Any]], measures: dict[str, Measure], sizes: Sizes, patience_s: float) -> dict[str, list[Readings]]:
    """Measure figure by figure, the sides in turn, so that a slow phase of the machine meets both."""
    readings: dict[str, list[Readings]] = {name: [] for name in contenders}
    for turn in range(sizes.runs):
        for measure_name, measure in measures.items():
            for name, contender in contenders.items():
                reading = await undisturbed(measure, contender, sizes, patience_s)
                readings[name].append(reading)
                shown = ", ".join(f"{key} {report.number(value)}" for key, value in reading.figures.items())
                print(f"run {turn + 1} {measure_name:<9} {name:<8} {shown} (others {reading.disturbance:.1f} cores)", file=sys.stderr, flush=True)
    return readings


async def undisturbed(measure: Measure, contender: Contender[Any], sizes: Sizes, patience_s: float) -> Readings:
    """Measure; with patience, up to three times, and keep the least disturbed."""
    best: Readings | None = None
    for _ in range(3 if patience_s else 1):
        await machine.wait_until_quiet(patience_s, report.DISTURBED_CORES)
        reading = await measure(contender, sizes)
        if best is None or reading.disturbance < best.disturbance:
            best = reading
        if best.disturbance < report.DISTURBED_CORES:
            break
    assert best is not None
    return best


def merge(readings: list[Any]) -> dict[str, list[float]]:
    """Turn a list of mappings (or of Readings) into a mapping of lists."""
    merged: dict[str, list[float]] = {}
    for reading in readings:
        for key, value in (reading.figures if isinstance(reading, Readings) else reading).items():
            merged.setdefault(key, []).append(value)
    return merged


def merge_nested(readings: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """The same, one level deeper."""
    phases = {phase for reading in readings for phase in reading}
    return {phase: merge([reading[phase] for reading in readings if phase in reading]) for phase in sorted(phases)}


async def store_version() -> str:
    """Ask the store that is used."""
    async with Store() as store:
        return store.version()


def show(results: dict[str, Any]) -> None:
    """Print the tables."""
    facts = results["machine"]
    print(f"\n{facts['cores']} x {facts['cpu']}, python {facts['python']}, node {facts['node']}, {facts['store']}, {facts['seconds']} s")
    for name, settings in results["settings"].items():
        print(f"{name}: {', '.join(f'{key}={value}' for key, value in settings.items())}")
    print(f"\n{report.table(results['figures'], 'jobwire', 'bullmq')}")
    if any(row["ours"] for row in results["scale"]):
        print(f"\nwith many jobs waiting, against {1_000:,}\n{report.table(results['scale'], 'many', '1,000')}")
    print(f"\nCPU per job, µs\n{report.cpu_table(results['cpu_us_per_job'])}")
    disturbed = {f"{side} {phase}": values for side, phases in results["others_cores"].items() for phase, values in phases.items()}
    for phase, values in disturbed.items():
        if median(values) > report.DISTURBED_CORES:
            print(f"disturbed: other programs took {median(values):.1f} cores during {phase}")
    for line in report.missed([*results["figures"], *results["scale"]]):
        print(line)
    print(f"\nwritten to {report.RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
