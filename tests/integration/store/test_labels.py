"""Labels that a job requires: only sessions that have them get it, and others do not use up the room that it needs."""

import asyncio

import pytest
from jobwire_broker.store import codec
from jobwire_broker.store.arguments import JobItem, LeaseRequest, TurnItem

from tests.support.queue_lab import QueueLab, ruled
from tests.support.queue_state import session_bytes

GPU = {"gpu": "a100"}


async def test_only_a_session_with_the_labels_gets_the_job(q: QueueLab) -> None:
    await q.make(ruled("a", labels=GPU), "b")
    await q.attach("s")
    await q.attach("t", labels={**GPU, "zone": "eu"})
    async with q.heard() as heard:
        assert list(await q.lease("s", 5)) == ["b"]
    assert heard.wakes == ["work"]
    assert list((await q.state()).lines) == ["q\0\x09\x03gpu\x04a100"]
    assert list(await q.lease("t", 5)) == ["a"]
    assert (await q.state()).lines == {}


async def test_all_of_the_labels_are_needed(q: QueueLab) -> None:
    await q.make(ruled("a", "g", labels={**GPU, "zone": "us"}), ruled("b", "g", labels={"zone": "us"}))
    await q.attach("s", labels=GPU)
    await q.attach("t", labels={"gpu": "h100", "zone": "us"})
    await q.attach("u", labels={**GPU, "zone": "us"})
    assert await q.lease("s", 5) == {}
    assert list(await q.lease("t", 5)) == ["b"]
    assert list(await q.lease("u", 5)) == ["a"]


async def test_groups_have_their_turns_also_among_jobs_that_sessions_without_their_labels_have_met(q: QueueLab) -> None:
    await q.make(*(ruled(f"{group}{i:02}", group, labels=GPU) for group in ("a", "", "b", "c") for i in range(30)))
    await q.store.set_group("a", weight=2.0)
    await q.store.set_group("c", express=True)
    await q.attach("n")
    await q.attach("l", labels=GPU)
    started = []
    for _ in range(27):
        # Whoever lacks the labels meets all of them, and puts them aside.
        assert await q.lease("n", 9) == {}
        assert {line[0] for line in (await q.state()).lines} == {"q"}
        for raw_id, token in (await q.lease("l", 2)).items():
            started.append(raw_id[:-2])
            await q.complete(raw_id, token)
    assert started[:30] == ["c"] * 30
    assert {group: started[30:].count(group) for group in ("a", "", "b")} == {"a": 12, "": 6, "b": 6}


async def test_a_lone_labelled_job_of_a_group_does_not_wait_for_those_of_many_others(q: QueueLab) -> None:
    await q.make(*(ruled(f"{number:02}{i}", f"g{number:02}", labels=GPU) for number in range(20) for i in range(9)), ruled("lone", "z", labels=GPU))
    await q.attach("n")
    await q.attach("l", labels=GPU)
    started: list[str] = []
    while "lone" not in started:
        assert await q.lease("n", 9) == {}
        started += await q.lease("l", 1)
    assert len(started) <= 21, "it comes when each of the twenty groups has had its turn"
    await q.state()


async def test_a_goodbye_forgets_the_labels(q: QueueLab) -> None:
    await q.attach("s", labels=GPU)
    await q.detach("s")
    assert await q.redis.exists(q.base + "M") == 0


async def test_a_job_that_waits_for_room_is_not_passed_by_sessions_without_its_labels(q: QueueLab) -> None:
    await q.set_policy(limit={"concurrency": 7})
    await q.attach("n")
    await q.attach("l", labels=GPU)
    await q.make("a0", "a1", "a2", "a3")
    running = await q.lease("n", 4)
    await q.make(ruled("x", units=5, labels=GPU), *(f"b{i}" for i in range(20)))
    assert list(await q.lease("n", 1)) == ["b0"], "nobody with the labels has asked yet"
    assert await q.lease("l", 9) == {}
    async with q.heard() as heard:
        for _ in range(3):
            assert await q.lease("n", 9) == {}
            assert await q.lease("l", 9) == {}
    assert heard.wakes == [], "nothing has changed"
    for raw_id in ("a0", "a1"):
        await q.turn_all([TurnItem("C", raw_id.encode(), running[raw_id])], [LeaseRequest(session_bytes("n"), 1, 9)])
        assert await q.lease("l", 9) == {}
    async with q.heard() as heard:
        report = await q.turn_all([TurnItem("C", b"a2", running["a2"])], [LeaseRequest(session_bytes("n"), 1, 9)])
    assert (report.leases[0].jobs, heard.wakes) == ([], ["work"])
    assert 0 < report.opens_ms <= 3_000, "if nobody comes for it, the others go on"
    async with q.heard() as heard:
        assert list(await q.lease("l", 1)) == ["x"]
        assert await q.lease("n", 9) == {}
    assert heard.wakes == ["work"], "its room is owed no longer"
    await q.complete("a3", running["a3"])
    assert list(await q.lease("n", 9)) == ["b1"]
    await q.state()


async def test_a_full_queue_leaves_its_next_room_to_the_session_that_has_the_labels(q: QueueLab) -> None:
    await q.set_policy(limit={"concurrency": 1})
    await q.attach("n")
    await q.attach("l", labels=GPU)
    await q.make("a", ruled("x", labels=GPU), "b", "c")
    token = (await q.lease("n", 1))["a"]
    assert await q.lease("l", 1) == {}
    report = await q.turn_all([TurnItem("C", b"a", token)], [LeaseRequest(session_bytes("n"), 1, 1)])
    assert report.leases[0].jobs == []
    assert list(await q.lease("l", 1)) == ["x"]


async def test_a_group_leaves_its_next_room_to_the_session_that_has_the_labels(q: QueueLab) -> None:
    await q.set_policy(group_limit={"concurrency": 3})
    await q.attach("n")
    await q.attach("l", labels=GPU)
    await q.make(ruled("a", "g"), ruled("b", "g", units=2), ruled("x", "g", units=2, labels=GPU), ruled("c", "g"), ruled("d", "h"))
    running = await q.lease("n", 2)
    assert sorted(running) == ["a", "d"]
    running |= await q.lease("n", 1)
    assert list(await q.lease("l", 1)) == []
    await q.complete("a", running["a"])
    assert list(await q.lease("l", 1)) == []
    assert list(await q.lease("n", 1)) == [], "x needs two units, and only one is free"
    await q.complete("b", running["b"])
    assert list(await q.lease("n", 1)) == []
    assert list(await q.lease("l", 1)) == ["x"]
    assert list(await q.lease("n", 1)) == ["c"]
    await q.state()


async def test_a_group_that_is_always_full_leaves_its_next_room_to_the_session_that_has_the_labels(q: QueueLab) -> None:
    await q.set_policy(group_limit={"concurrency": 1})
    await q.attach("n")
    await q.attach("l", labels=GPU)
    await q.make(ruled("a", "g"), ruled("x", "g", labels=GPU), *(ruled(f"b{i}", "g") for i in range(9)))
    token = (await q.lease("n", 1))["a"]
    report = await q.turn_all([TurnItem("C", b"a", token)], [LeaseRequest(session_bytes("n"), 1, 1)])
    ((b0, token, _),) = report.leases[0].jobs
    assert b0 == b"b0", "nobody with the labels has asked yet"
    assert await q.lease("l", 1) == {}
    report = await q.turn_all([TurnItem("C", b"b0", token)], [LeaseRequest(session_bytes("n"), 1, 1)])
    assert report.leases[0].jobs == []
    assert list(await q.lease("l", 1)) == ["x"]
    assert await q.redis.exists(q.base + "O") == 0
    await q.state()


@pytest.mark.parametrize("policy", [{"group_limit": {"concurrency": 2}}, {"names": {"work": {"concurrency": 2}}}], ids=["group", "job name"])
async def test_a_session_that_asks_again_keeps_the_room_that_is_owed(q: QueueLab, policy: dict[str, dict[str, object]]) -> None:
    await q.set_policy(**policy)
    await q.attach("n")
    await q.attach("l", labels=GPU)
    await q.make(ruled("a", "g"), ruled("x", "g", units=2, labels=GPU), *(ruled(f"b{i}", "g") for i in range(9)))
    token = (await q.lease("n", 1))["a"]
    assert await q.lease("l", 1) == {}
    first = await q.redis.zrange(q.base + "O", 0, -1, withscores=True)
    await asyncio.sleep(0.002)
    assert await q.lease("l", 1) == {}
    ((member, until),) = await q.redis.zrange(q.base + "O", 0, -1, withscores=True)
    assert (first[0][0], first[0][1] < until) == (member, True)
    report = await q.turn_all([TurnItem("C", b"a", token)], [LeaseRequest(session_bytes("n"), 1, 1)])
    assert report.leases[0].jobs == []
    assert list(await q.lease("l", 1)) == ["x"]


async def test_a_session_without_room_is_owed_nothing_more(q: QueueLab) -> None:
    await q.set_policy(group_limit={"concurrency": 1})
    await q.attach("n")
    await q.attach("l", labels=GPU)
    await q.make(ruled("a", "g"), ruled("x", "g", labels=GPU), ruled("b", "g"))
    token = (await q.lease("n", 1))["a"]
    await q.turn_all([TurnItem("C", b"a", token)], [LeaseRequest(session_bytes("n"), 1, 1)])
    await q.make("c")
    assert list(await q.lease("l", 1)) == ["c"]
    assert await q.redis.exists(q.base + "O") == 0


async def test_room_is_owed_for_a_time_only(q: QueueLab) -> None:
    await q.set_policy(limit={"concurrency": 2})
    await q.attach("n")
    await q.attach("l", labels=GPU)
    await q.make("a", ruled("x", units=2, labels=GPU), "b")
    await q.lease("n", 1)
    assert await q.lease("l", 1) == {}
    await q.detach("l")
    assert await q.lease("n", 1) == {}
    await q.redis.delete(q.base + "O")
    assert list(await q.lease("n", 1)) == ["b"]
    async with q.heard() as heard:
        assert await q.lease("n", 1) == {}
    assert heard.wakes == []


async def test_jobs_too_large_for_the_bytes_of_a_session_with_their_labels_wake_nobody(q: QueueLab) -> None:
    await q.attach("n")
    await q.attach("l", labels=GPU)
    labels = {codec.TAG_REQUIRED_LABELS: codec.encode_labels(GPU)}
    body = codec.encode_body("work", b"x" * 600, None, 0, labels)
    await q.make(*(JobItem(f"x{i}".encode(), "", 5, 3, body, flags=codec.FLAG_COUNTED) for i in range(3)), "a")

    async def ask() -> tuple[list[str], list[str]]:
        small = await q.store.turn([], [LeaseRequest(session_bytes("l"), 1, 9, 100)])
        return [raw_id.decode() for raw_id, _, _ in small.leases[0].jobs], list(await q.lease("n", 9))

    assert await ask() == ([], ["a"])
    async with q.heard() as heard:
        assert [await ask() for _ in range(3)] == [([], [])] * 3
    assert heard.wakes == []
    assert list((await q.state()).lines.values()) == [["x0", "x1", "x2"]]
    assert list(await q.lease("l", 9)) == ["x0", "x1", "x2"]
    await q.state()
