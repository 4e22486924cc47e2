"""The whole measurement: both sides in turn, medians, ratios, and whether the floors are reached."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench import machine
from bench.gateway.figures import QUICK, Sizes, delays, memory_per_connection, open_all, saturation, stall
from bench.gateway.sides import gateway_side, guarded_side, yardstick_side

RESULTS = Path(__file__).resolve().parents[1] / "results" / "gateway.json"
_SIDES = {"yardstick": yardstick_side, "gateway": gateway_side}


@dataclass(frozen=True, kw_only=True)
class Floor:
    """A figure of the gateway, and the bound that it has to keep."""

    figure: str
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    against: str = ""
    """The figure that it is divided by before it is compared, run by run: the machine's speed moves between them."""


def floors(counts: tuple[int, ...]) -> list[Floor]:
    """What the gateway is held to."""
    found = []
    for count in counts:
        found += [
            Floor(figure=f"gateway bytes per idle connection, {count:,}", unit="B", at_most=20_000),
            Floor(figure=f"gateway frames/s, {count:,}", unit="/s", at_least=0.8, against=f"yardstick frames/s, {count:,}"),
        ]
    least = min(counts)
    stalled, alone = f"gateway p99 beside stalled readers, {least:,}", f"gateway p99 before stalled readers, {least:,}"
    return [*found, Floor(figure=stalled, unit="ms", at_most=1.1, against=alone)]


def measure(*, quick: bool) -> dict[str, Any]:
    """Measure everything. Gives the runs of each figure, by its name."""
    sizes = QUICK if quick else Sizes()
    began = time.monotonic()
    runs: dict[str, list[float]] = {}
    for name, make in (*_SIDES.items(), ("gateway with a job and a token each,", guarded_side)):
        for count in sizes.connections:
            with make() as side:
                _note(runs, f"{name} bytes per idle connection, {count:,}", memory_per_connection(side, count))
    for count in sizes.connections:
        for _ in range(sizes.runs):
            for name, make in _SIDES.items():
                with make() as side:
                    rate, _ = saturation(side, open_all(side, count), sizes.seconds, 1)
                    _note(runs, f"{name} frames/s, {count:,}", rate.per_s)
                    _note(runs, f"{name} frames per second of its processor time, {count:,}", rate.per_cpu_s)
                    _note(runs, f"{name} cores meanwhile, {count:,}", rate.cores)
        half = _half(runs, count)
        for name, make in _SIDES.items():
            with make() as side:
                found, _ = delays(side, open_all(side, count), half, sizes.seconds, 1)
                _note_delays(runs, name, "", count, found)
    _measure_stalled(runs, sizes)
    return {"machine": {**machine.facts(), "seconds": round(time.monotonic() - began)}, "runs": runs, "floors": _judged(runs, sizes.connections)}


def _measure_stalled(runs: dict[str, list[float]], sizes: Sizes) -> None:
    """The same gateway and the same quick readers, now without and now with stalled ones, because two runs differ by more than is allowed."""
    count = min(sizes.connections)
    half = _half(runs, count)
    with gateway_side() as side:
        readers, number = open_all(side, count), 1
        for _ in range(sizes.stalled_runs):
            found, number = delays(side, readers, half, sizes.stalled_seconds, number)
            _note_delays(runs, "gateway", " before stalled readers", count, found)
            stalled, number = stall(side, readers, sizes.stalled, number)
            found, number = delays(side, readers, half, sizes.stalled_seconds, number)
            _note_delays(runs, "gateway", " beside stalled readers", count, found)
            stalled.close()


def _half(runs: dict[str, list[float]], count: int) -> float:
    """Half of the yardstick's rate, for both."""
    return median(runs[f"yardstick frames/s, {count:,}"]) / 2


def _note(runs: dict[str, list[float]], figure: str, value: float) -> None:
    runs.setdefault(figure, []).append(value)
    print(f"{figure}: {value:,.1f}", flush=True)


def _note_delays(runs: dict[str, list[float]], name: str, beside: str, count: int, found: dict[str, float]) -> None:
    for percentile, value in found.items():
        _note(runs, f"{name} {percentile}{beside}, {count:,}", value)


def _judged(runs: dict[str, list[float]], counts: tuple[int, ...]) -> list[dict[str, Any]]:
    return [_judge(runs, floor) for floor in floors(counts)]


def _judge(runs: dict[str, list[float]], floor: Floor) -> dict[str, Any]:
    found = runs[floor.figure]
    value = median(own / other for own, other in zip(found, runs[floor.against], strict=True)) if floor.against else median(found)
    reached = value >= floor.at_least if floor.at_least is not None else value <= (floor.at_most or 0)
    bound = f">= {floor.at_least}" if floor.at_least is not None else f"<= {floor.at_most}"
    what = f"{floor.figure} / {floor.against}" if floor.against else f"{floor.figure}, {floor.unit}"
    return {"figure": what, "value": round(value, 3), "bound": bound, "verdict": "reached" if reached else "MISSED"}


def main(*, quick: bool, strict: bool) -> int:
    """Measure, print a table, write the JSON file. 1 when `strict` and a floor is missed."""
    results = measure(quick=quick)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print()
    for row in results["floors"]:
        print(f"{row['figure']:<120} {row['value']:>10,} {row['bound']:>8}  {row['verdict']}")
    print(f"\nwritten to {RESULTS.relative_to(RESULTS.parents[2])}")
    return 1 if strict and any(row["verdict"] == "MISSED" for row in results["floors"]) else 0
