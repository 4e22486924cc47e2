"""What a long queue costs Jobwire: the same work with a million jobs waiting and with a thousand, turn by turn."""

import asyncio
from contextlib import AsyncExitStack

from bench.contenders import Jobwire, Rig
from bench.figures import BATCH, Sizes

SMALL = 1_000
SETTLE_S = 5.0


async def scale(contender: Jobwire, sizes: Sizes) -> dict[str, dict[str, list[float]]]:
    """Return the figures of each size, as lists of runs. Both systems are up all the time; only one of them works."""
    figures: dict[str, dict[str, list[float]]] = {"small": {}, "large": {}}
    async with AsyncExitStack() as stack:
        rigs = {name: await stack.enter_async_context(contender.rig(contender.settings)) for name in figures}
        await fill(rigs["large"], sizes.scale_waiting)
        await fill(rigs["small"], SMALL)
        await asyncio.gather(*(settled(rig) for rig in rigs.values()))
        for _ in range(sizes.scale_runs):
            for name, rig in rigs.items():
                for key, value in (await one_run(rig, sizes.scale_jobs)).items():
                    figures[name].setdefault(key, []).append(value)
    return figures


async def fill(rig: Rig, jobs: int) -> None:
    """Let this many jobs wait."""
    await rig.producer.ask("bulk", count=jobs, batch=BATCH, calls=2)


async def settled(rig: Rig) -> None:
    """Wait until the disk has what was written and nothing but time passes: the filling must not be paid for by what comes after it."""
    await asyncio.to_thread(rig.store.client.execute_command, "WAITAOF", 1, 0, 20_000)
    await asyncio.sleep(SETTLE_S)


async def one_run(rig: Rig, jobs: int) -> dict[str, float]:
    """Enqueue `jobs` more and drain as many. What the worker takes beyond that, before it is stopped, is made again."""
    started = rig.store.time_spent()
    waiting = (await rig.counts()).waiting
    answer = await rig.producer.ask("bulk", count=jobs, batch=BATCH, calls=2)
    enqueued = rig.store.time_spent()
    rig.worker.send("expect", count=jobs)
    rig.worker.send("run")
    handled = await rig.worker.answer()
    drained = rig.store.time_spent()
    await rig.worker.ask("pause")
    taken_too_many = waiting - (await rig.counts()).waiting
    if taken_too_many > 0:
        await rig.producer.ask("bulk", count=taken_too_many, batch=taken_too_many, calls=1)
    return {
        "bulk_per_s": jobs / answer["seconds"],
        "drain_per_s": jobs / ((handled["last_ns"] - handled["first_ns"]) / 1e9),
        "store_life_us": enqueued.since(started).top_level_us / jobs + drained.since(enqueued).top_level_us / jobs,
    }
