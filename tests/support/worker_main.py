"""A worker for the fault tests: it does what the payload says, and tells the test through the event pipe what it began and what it did.

Run as `python -m tests.support.worker_main TARGET QUEUE CONCURRENCY EVENTS`. The payload is JSON: `ms` is how long the handler awaits, `block_ms` how long it
blocks its event loop before, and `kill` takes the whole process down. The target may name several brokers with commas.
"""

import asyncio
import logging
import os
import signal
import sys
import time

from jobwire_worker import Job, Worker

from tests.support.events import EventSink


def build(target: str, queue: str, concurrency: int, events: EventSink) -> Worker:
    worker = Worker(target, queues=[queue], concurrency=concurrency)

    @worker.handler("work")
    async def work(job: Job[dict[str, float]]) -> None:
        events.write("start", job.id, job.token, job.attempt)
        if "kill" in job.payload:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            time.sleep(job.payload.get("block_ms", 0) / 1000)
            await asyncio.sleep(job.payload.get("ms", 0) / 1000)
        except asyncio.CancelledError:
            events.write("stopped", job.id, job.token, job.attempt)
            raise
        events.write("done", job.id, job.token, job.attempt)

    return worker


def main() -> int:
    target, queue, concurrency, pipe = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    return build(target, queue, int(concurrency), EventSink(pipe)).run()


if __name__ == "__main__":
    sys.exit(main())
