"""Many seeds in several processes, each with a store of its own; what fails is repeated, shrunk and printed."""

from __future__ import annotations

import argparse
import gc
import hashlib
import logging
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

from tests.simulation.plan import Plan
from tests.simulation.planner import plan_of
from tests.simulation.real_store import Library, RealStore, StoreProcess, library
from tests.simulation.world import Outcome, run_plan

_SHRINK_RUNS = 150
_LAST_LINES = 150


def run_seeds(seeds: Sequence[int], chosen: Library | None = None) -> Iterable[Outcome]:
    """Run seeds, one after the other, against a store of their own."""
    process = StoreProcess()
    with process.started():
        real = RealStore(process.socket)
        real.use(chosen or library())
        gc.disable()
        try:
            for count, seed in enumerate(seeds):
                yield run_plan(plan_of(seed), real)
                if count % 20 == 19:
                    gc.collect()
        finally:
            gc.enable()
            real.close()


def shrink(outcome: Outcome, real: RealStore) -> Outcome:
    """Leave out what the same sin does not need."""
    assert outcome.violation is not None
    best, left = outcome, _SHRINK_RUNS
    size = max(1, len(best.plan.actions) // 2)
    while size and left > 0:
        at = 0
        while at < len(best.plan.actions) and left > 0:
            left -= 1
            tried = run_plan(best.plan.without(best.plan.actions[at : at + size]), real)
            if tried.violation is not None and tried.violation.sin == outcome.violation.sin:
                best = tried
            else:
                at += size
        size //= 2
    return best


def report(outcome: Outcome) -> str:
    """A failure, for people."""
    plan = outcome.plan
    names = {job.id: f"job {job.number}" for job in plan.jobs}
    lines = [f"{at_s:9.4f} {names.get(job, '') if job else '':8} {text}" for at_s, job, text in outcome.lines]
    if len(lines) > _LAST_LINES:
        lines = [f"… {len(lines) - _LAST_LINES} lines before", *lines[-_LAST_LINES:]]
    text = "\n".join(["", f"seed {plan.seed}: {outcome.violation}", f"again: make simulate SEEDS=1 FROM={plan.seed}", *lines, ""])
    for id_, name in names.items():
        text = text.replace(id_, name)
    return text


def _work(seeds: Sequence[int], results: multiprocessing.Queue[Any]) -> None:
    logging.disable(logging.CRITICAL)
    try:
        for outcome in run_seeds(seeds):
            results.put((outcome.plan.seed, outcome.violation))
        results.put(None)
    except BaseException:
        results.put(traceback.format_exc())


def main(arguments: Sequence[str]) -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="make simulate")
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--from", type=int, default=1, dest="first", help="the first one")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--keep-going", action="store_true", help="go on after the first failure")
    parser.add_argument("--whole", action="store_true", help="do not shrink")
    parser.add_argument("--within", type=float, metavar="SECONDS", help="fail when it takes longer")
    parser.add_argument("--show", action="store_true", help="print the history of one seed, whatever comes of it")
    options = parser.parse_args(arguments)
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets of words is part of what a seed decides.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *arguments])
    seeds = range(options.first, options.first + options.seeds)
    if options.show:
        print(report(next(iter(run_seeds([options.first])))))
        return 0
    began = time.monotonic()
    failed = _run_all(seeds, options.jobs, keep_going=options.keep_going)
    took_s = time.monotonic() - began
    for seed in failed[:3]:
        print(_explain(plan_of(seed), whole=options.whole))
    print(f"{len(seeds)} seeds in {took_s:.1f} s, {len(failed)} failed: {failed[:20]}")
    if options.within is not None and took_s > options.within:
        print(f"that is longer than {options.within:g} s", file=sys.stderr)
        return 1
    return 1 if failed else 0


def _explain(plan: Plan, *, whole: bool) -> str:
    process = StoreProcess()
    with process.started():
        real = RealStore(process.socket)
        real.use(library())
        logging.disable(logging.CRITICAL)
        outcome = run_plan(plan, real)
        if outcome.violation is None:
            return f"seed {plan.seed} did not fail when it was repeated: something is not determined by the seed"
        return report(outcome if whole else shrink(outcome, real))


def _run_all(seeds: Sequence[int], jobs: int, *, keep_going: bool) -> list[int]:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[Any] = context.Queue()
    workers = [context.Process(target=_work, args=(seeds[i::jobs], results), daemon=True) for i in range(min(jobs, len(seeds)))]
    for worker in workers:
        worker.start()
    failed: list[int] = []
    left = len(workers)
    while left:
        found = results.get()
        if found is None:
            left -= 1
            continue
        if isinstance(found, str):
            raise RuntimeError(found)
        seed, violation = found
        if violation is not None:
            failed.append(seed)
            print(f"seed {seed}: {violation}", file=sys.stderr)
            if not keep_going:
                break
    for worker in workers:
        worker.terminate() if left else worker.join()
    return sorted(failed)


def digest(outcome: Outcome) -> str:
    """What a run was, in short: two runs of one seed have the same."""
    return hashlib.sha256(repr(outcome.lines).encode()).hexdigest()[:12]
