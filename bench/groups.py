"""What groups cost, and what they give: `python -m bench.groups`. The functions of a real store, called side by side; no broker and no worker takes part.

lease cost   store time of a call that leases 10 jobs, with 10 groups waiting and with 10,000. Floor: 1.3 x.
fairness     nine tenants with 100 jobs each, all nine coming at the same moment, once for each ten jobs of a tenth tenant with 100,000; and the same nine
             without it. Their p99 wait, counted in jobs that go first, so that the machine has no part in it. Floor: 1.5 x.
"""

import asyncio
import json
import os
import sys
from statistics import median, quantiles

import jobwire_broker.store.client as store_client
from jobwire_broker.config import BrokerConfig
from jobwire_broker.store import codec
from jobwire_broker.store.arguments import JobItem, LeaseRequest, TurnItem
from jobwire_broker.store.client import StoreClient
from jobwire_broker.store.queue_store import QueueStore

from bench.store import Store

FEW, MANY, JOBS_EACH = 10, 10_000, 4
LEASED, ROUNDS, CALLS = 10, 15, 40
FLOOD, TENANTS, TENANT_JOBS = 100_000, 9, 100
#: With each call one job of each of the nine can go, and ten of the tenth.
FAIR_LEASED = 19
COST_FLOOR, FAIR_FLOOR = 1.3, 1.5
SESSION = bytes(16)
CALL_TIMEOUT_S = 60.0


class Side:
    """One queue and its only session."""

    def __init__(self, client: StoreClient, store: Store, name: str) -> None:
        self.queue = QueueStore(client, name)
        self._store = store
        self._made = 0

    async def attach(self) -> None:
        """Take jobs."""
        await self.queue.attach(SESSION, 1, 3_600_000, b"", [])

    async def make(self, groups: list[str]) -> list[bytes]:
        """One job for each of these groups, in this order. Returns the ids."""
        ids = []
        for start in range(0, len(groups), 128):
            items = []
            for group in groups[start : start + 128]:
                self._made += 1
                body = codec.encode_body("work", b"", None, 0, {codec.TAG_GROUP: group.encode()})
                items.append(JobItem(f"j{self._made}".encode(), "", 5, 1, body, flags=codec.FLAG_COUNTED))
            await self.queue.enqueue(items)
            ids += [item.raw_id for item in items]
        return ids

    async def lease(self, jobs: int) -> list[tuple[bytes, int, bytes]]:
        """Lease, and give the store's time for it to `spent_us`."""
        before = self._store.time_spent()
        report = await self.queue.turn([], [LeaseRequest(SESSION, 1, jobs)])
        self.spent_us = self._store.time_spent().since(before).top_level_us
        return report.leases[0].jobs

    async def finish(self, leases: list[tuple[bytes, int, bytes]]) -> None:
        """Complete all."""
        await self.queue.turn([TurnItem("C", raw_id, token) for raw_id, token, _ in leases])


async def lease_cost(client: StoreClient, store: Store) -> dict[str, float]:
    """The median store time of a call with few and with many groups, in turn."""
    sides = {count: Side(client, store, f"cost{count}") for count in (FEW, MANY)}
    for count, side in sides.items():
        await side.attach()
        await side.make([f"g{number}" for number in range(count)] * JOBS_EACH)
    spent: dict[int, list[int]] = {FEW: [], MANY: []}
    for _ in range(ROUNDS):
        for count, side in sides.items():
            for _ in range(CALLS):
                leases = await side.lease(LEASED)
                spent[count].append(side.spent_us)
                await side.finish(leases)
                await side.make([codec.sections(record, codec.body_start(record))[codec.TAG_GROUP].decode() for _, _, record in leases])
    few, many = median(spent[FEW]), median(spent[MANY])
    return {f"us_with_{FEW}": few, f"us_with_{MANY}": many, "ratio": round(many / few, 3), "floor": COST_FLOOR}


async def waits(side: Side, flood: int) -> list[int]:
    """The waits of the nine: how many jobs were leased from the moment when one came until it was leased itself."""
    await side.attach()
    await side.make(["flood"] * flood)
    came: dict[bytes, int] = {}
    found: list[int] = []
    leased = 0
    for _ in range(TENANT_JOBS):
        came |= dict.fromkeys(await side.make([f"t{number}" for number in range(TENANTS)]), leased)
        leases = await side.lease(FAIR_LEASED)
        found += [leased + place - came[raw_id] for place, (raw_id, _, _) in enumerate(leases, 1) if raw_id in came]
        await side.finish(leases)
        leased += len(leases)
    return found


async def fairness(client: StoreClient, store: Store) -> dict[str, float]:
    """p99 waits with and without the flood."""
    alone = quantiles(await waits(Side(client, store, "alone"), 0), n=100)[98]
    beside = quantiles(await waits(Side(client, store, "beside"), FLOOD), n=100)[98]
    return {"p99_alone": alone, "p99_beside_flood": beside, "ratio": round(beside / alone, 3), "floor": FAIR_FLOOR}


async def measure() -> dict[str, dict[str, float]]:
    """Both, on a store of their own."""
    # While a disk takes long over what a flood has written, the store may not answer for seconds; its own time says what is measured.
    store_client.CALL_TIMEOUT_S = CALL_TIMEOUT_S
    async with Store() as store:
        client = StoreClient(BrokerConfig(store=store.url))
        await client.start()
        try:
            return {"lease_cost": await lease_cost(client, store), "fairness": await fairness(client, store)}
        finally:
            await client.stop()


async def main() -> int:
    """Measure both; 1 when a floor is missed and --strict was given."""
    results = await measure()
    sys.stdout.write(json.dumps(results, indent=2) + os.linesep)
    missed = any(figure["ratio"] > figure["floor"] for figure in results.values())
    return 1 if missed and "--strict" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
