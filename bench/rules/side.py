"""Calls the store of one version of the broker, as the broker does, and says how long the store took: a driver (see bench/driver.py).

It is run as a script, with the packages of its version on PYTHONPATH, so it imports those alone. Settings: url, socket, `before` (the version without rules).
"""

import asyncio
import json
import os
import sys
from itertools import pairwise
from typing import Any

import jobwire_broker.store.client as store_client
import redis
from jobwire.v1 import job_pb2
from jobwire_broker.config import BrokerConfig
from jobwire_broker.names import mint_id
from jobwire_broker.store import JobItem, LeaseRequest, QueueStore, TurnItem, codec

COMPLETED = 5
CALL_JOBS = 125
NEVER_MS = 86_400_000
PERMANENT = -2
PAYLOAD = job_pb2.Payload(json='{"p":"' + "x" * 92 + '"}').SerializeToString()
FAILURE = job_pb2.Failure(type="ConnectionError", message="the server did not answer").SerializeToString()


class Side:
    """The commands, over one client of the store."""

    def __init__(self, client: store_client.StoreClient, socket: str, *, before: bool) -> None:
        self._client = client
        self._info = redis.Redis(unix_socket_path=socket)
        self._priority: int | None = 5 if before else None
        self._attempts = 3 if before else 0
        self._body = codec.encode_body("noop", PAYLOAD, None, 0)
        self._session = os.urandom(16)
        self._queue = QueueStore(client, "")

    async def queue(self, command: dict[str, Any]) -> dict[str, Any]:
        """Work on the queue `name` from now on, which keeps as many ended jobs as `keep` says, by the numbers of their states."""
        self._queue, keep = QueueStore(self._client, command["name"]), command.get("keep")
        if keep:
            await self._queue.set_policy(0, json.dumps({"v": 1, "keep": {state: {"count": count} for state, count in keep.items()}}))
        await self._queue.attach(self._session, 1, NEVER_MS, b"bench", [])
        return {"done": True}

    async def make(self, command: dict[str, Any]) -> dict[str, Any]:
        """`count` jobs, due when `due` says."""
        for first in range(0, command["count"], CALL_JOBS):
            of = range(first, min(first + CALL_JOBS, command["count"]))
            await self._queue.enqueue([self._item(command.get("due", "")) for _ in of])
        return {"done": True}

    async def end(self, command: dict[str, Any]) -> dict[str, Any]:
        """Take `count` jobs through their lives; they end in `state`, COMPLETED or FAILED. Answers how many of those are kept now."""
        finished: list[TurnItem] = []
        for first in range(0, command["count"], CALL_JOBS):
            await self._queue.enqueue([self._item() for _ in range(first, min(first + CALL_JOBS, command["count"]))])
            leased = (await self._queue.turn(finished, [self._room])).leases[0].jobs
            finished = [self._finish(raw_id, token, command["state"]) for raw_id, token, _ in leased]
        await self._queue.turn(finished)
        stats = await self._queue.stats()
        return {"kept": stats.completed if command["state"] == COMPLETED else stats.failed}

    async def life(self, _: dict[str, Any]) -> dict[str, Any]:
        """The store's time per job for enqueue, lease and completion of one call's jobs each, in µs."""
        spent = [self._spent()]
        await self._queue.enqueue([self._item() for _ in range(CALL_JOBS)])
        spent.append(self._spent())
        leased = (await self._queue.turn([], [self._room])).leases[0].jobs
        spent.append(self._spent())
        await self._queue.turn([TurnItem("C", raw_id, token) for raw_id, token, _ in leased])
        spent.append(self._spent())
        enqueue, lease, complete = ((after - earlier) / CALL_JOBS for earlier, after in pairwise(spent))
        return {"enqueue": enqueue, "lease": lease, "complete": complete}

    @property
    def _room(self) -> LeaseRequest:
        return LeaseRequest(self._session, 1, CALL_JOBS)

    def _item(self, due: str = "") -> JobItem:
        return JobItem(mint_id(), due, self._priority, self._attempts, self._body)

    @staticmethod
    def _finish(raw_id: bytes, token: int, state: int) -> TurnItem:
        return TurnItem("C", raw_id, token) if state == COMPLETED else TurnItem("F", raw_id, token, FAILURE, PERMANENT)

    def _spent(self) -> int:
        return int(self._info.info("commandstats")["cmdstat_fcall"]["usec"])


async def main() -> None:
    """Do what the lines on stdin say, one at a time."""
    settings = json.loads(sys.argv[1])
    # Of a store that is being filled a call may take long.
    store_client.CALL_TIMEOUT_S = 60.0
    client = store_client.StoreClient(BrokerConfig(store=settings["url"]))
    await client.start()
    side = Side(client, settings["socket"], before=settings["before"])
    say({"ready": True})
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        say(await getattr(side, command["do"])(command))
    await client.stop()


def say(answer: dict[str, Any]) -> None:
    """Write one answer."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
