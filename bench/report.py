"""Medians, ratios and verdicts: the table for people and the JSON for programs."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

RESULTS = Path(__file__).resolve().parent / "results" / "latest.json"
DISTURBED_CORES = 0.2


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure, and the ratio to BullMQ's that it has to reach."""

    key: str
    title: str
    better: Literal["more", "less"]
    floor: float
    goal: float


TARGETS = (
    Target(key="sustained_per_s", title="sustained life, jobs/s", better="more", floor=2.5, goal=4.0),
    Target(key="drain_per_s", title="drain, jobs/s", better="more", floor=2.0, goal=3.0),
    Target(key="bulk_per_s", title="enqueue in batches of 1,000, jobs/s", better="more", floor=2.0, goal=2.5),
    Target(key="lanes_per_s", title="64 concurrent enqueues, jobs/s", better="more", floor=1.5, goal=2.0),
    Target(key="store_life_us", title="store time per life, µs", better="less", floor=1 / 2, goal=1 / 3),
    Target(key="bytes_waiting", title="bytes per waiting job", better="less", floor=0.6, goal=1 / 2),
    Target(key="bytes_completed", title="bytes per kept completed job", better="less", floor=0.5, goal=1 / 3),
    Target(key="latency_p50_ms", title="latency idle p50, ms", better="less", floor=1.5, goal=1.0),
    Target(key="latency_p99_ms", title="latency idle p99, ms", better="less", floor=1.0, goal=0.7),
)

SCALE_TARGETS = (
    Target(key="drain_per_s", title="drain, jobs/s", better="more", floor=0.85, goal=0.95),
    Target(key="bulk_per_s", title="enqueue, jobs/s", better="more", floor=0.85, goal=0.95),
    # Time is the inverse of speed: at 0.85 times the speed, the time is 1 / 0.85.
    Target(key="store_life_us", title="store time per life, µs", better="less", floor=1 / 0.85, goal=1 / 0.95),
)


def verdict(target: Target, ratio: float) -> str:
    """Say whether a ratio reaches the goal, the floor, or neither."""
    reached = [bound for bound in (target.floor, target.goal) if (ratio >= bound if target.better == "more" else ratio <= bound)]
    return ("MISSED", "floor", "goal")[len(reached)]


def compare(targets: tuple[Target, ...], ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Return a row per target: the runs of both sides, the median of the ratios of those that were measured side by side, the verdict.

    A machine whose speed moves between runs moves both sides of one alike. A side that was not measured leaves the ratio out.
    """
    rows = []
    for target in targets:
        row: dict[str, Any] = {
            "figure": target.title,
            "key": target.key,
            "floor": round(target.floor, 3),
            "goal": round(target.goal, 3),
            "better": target.better,
        }
        row["ours"], row["theirs"] = ours.get(target.key, []), theirs.get(target.key, [])
        if row["ours"] and row["theirs"]:
            row["ratios"] = [own / other for own, other in zip(row["ours"], row["theirs"], strict=True)]
            row["ratio"] = median(row["ratios"])
            row["verdict"] = verdict(target, row["ratio"])
        rows.append(row)
    return rows


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """Name each figure whose floor was missed, one a line, so that nobody has to look for it in the table."""
    return [f"FLOOR MISSED: {row['figure']}: {row['ratio']:.2f} of {row['floor']:.2f}" for row in rows if row.get("verdict") == "MISSED"]


def table(rows: list[dict[str, Any]], ours: str, theirs: str) -> str:
    """Lay the rows out for a terminal: median [least - greatest] of each side."""
    lines = [["figure", ours, theirs, "ratio", "floor", "goal", ""]]
    for row in rows:
        sign = "≥" if row["better"] == "more" else "≤"
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else "-"
        lines.append(
            [
                row["figure"],
                spread(row["ours"]),
                spread(row["theirs"]),
                ratio,
                f"{sign} {row['floor']:.2f}",
                f"{sign} {row['goal']:.2f}",
                row.get("verdict", ""),
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def spread(values: list[float]) -> str:
    """Write the median, and the least and greatest when there are several."""
    if not values:
        return "-"
    if len(values) == 1:
        return number(values[0])
    return f"{number(median(values))} [{number(min(values))} - {number(max(values))}]"


def number(value: float) -> str:
    """Write a number with as many digits as mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def cpu_table(cpu: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    """Lay out the CPU per job: a line per phase and contender, medians."""
    lines = []
    for phase in sorted({phase for phases in cpu.values() for phase in phases}):
        for contender, phases in cpu.items():
            if phase in phases:
                parts = ", ".join(f"{name} {number(median(values))}" for name, values in phases[phase].items())
                lines.append(f"{phase:<10} {contender:<8} {parts}")
    return "\n".join(lines)


def write(results: dict[str, Any]) -> None:
    """Write the JSON file whole or not at all."""
    RESULTS.parent.mkdir(exist_ok=True)
    unfinished = RESULTS.with_suffix(".json.tmp")
    unfinished.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    unfinished.replace(RESULTS)
