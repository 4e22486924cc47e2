"""A worker for the fault tests: it does what the payload says, and tells the test through the event pipe what it began and what it did.

Run as `python -m tests.support.worker_main TARGET QUEUE CONCURRENCY EVENTS [NAME]`. The payload is JSON: `ms` is how long the handler awaits, `block_ms` how
long it blocks its event loop. The target may name several brokers with commas.
"""

import asyncio
import sys
import time
from typing import Any

from jobwire_worker import Job, Worker

from tests.support.events import EventSink


def build(target: str, queue: str, concurrency: int, events: EventSink) -> Worker:
    worker = Worker(target, queues=[queue], concurrency=concurrency)

    @worker.handler("work")
    async def work(job: Job[Any]) -> None:
        events.write("start", job.id, job.token, job.attempt)
        try:
            payload: dict[str, float] = job.payload or {}
            if block_ms := payload.get("block_ms"):
                time.sleep(block_ms / 1000)
            await asyncio.sleep(payload.get("ms", 0) / 1000)
        except asyncio.CancelledError:
            events.write("stopped", job.id, job.token, job.attempt)
            raise
        events.write("done", job.id, job.token, job.attempt)

    return worker


def main() -> int:
    target, queue, concurrency, pipe = sys.argv[1:5]
    worker = build(target, queue, int(concurrency), EventSink(pipe))
    print("worker.starting", flush=True)
    return worker.run()


if __name__ == "__main__":
    sys.exit(main())
