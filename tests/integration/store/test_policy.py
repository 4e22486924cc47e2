"""The policy in the store: who sets it, who hears of it, and what functions take from it."""

import json

import pytest
from google.protobuf.duration_pb2 import Duration
from jobwire.v1 import job_pb2, policy_pb2
from jobwire_broker.store import codec
from jobwire_broker.store.answers import PolicyChanged
from jobwire_broker.store.arguments import JobItem
from jobwire_broker.store.policy import NO_POLICY, policy_to_text

from tests.support.queue_lab import QueueLab, debounced, item
from tests.support.queue_state import JobView, QueueState


def text(version: int = 1, **fields: object) -> str:
    """A policy's text."""
    return policy_to_text(policy_pb2.QueuePolicy(**fields), version)  # type: ignore[arg-type]  # fields by their names


async def test_a_policy_is_set_and_everybody_is_told(q: QueueLab) -> None:
    async with q.heard() as heard:
        assert await q.store.set_policy(0, text(attempts=7)) == ("OK", text(attempts=7))
    assert heard.wakes == ["policy"]
    assert await q.state() == QueueState(policy=text(attempts=7))
    assert (await q.store.stats()).policy == text(attempts=7)


async def test_who_comes_second_changes_nothing_and_learns_what_holds(q: QueueLab) -> None:
    await q.store.set_policy(0, text(attempts=7))
    async with q.heard() as heard:
        for version in (0, 2):
            assert await q.store.set_policy(version, text(3, attempts=9), True) == ("CHANGED", text(attempts=7))
    assert (heard.wakes, heard.sequences) == ([], [])
    assert await q.state() == QueueState(policy=text(attempts=7))
    assert await q.store.set_policy(1, text(3, attempts=9), True) == ("OK", text(3, attempts=9))
    assert await q.state() == QueueState(policy=text(3, attempts=9), paused=True)
    await q.store.set_policy(3, text(4), False)
    assert await q.state() == QueueState(policy=text(4))


async def test_a_policy_that_is_no_json_changes_nothing(q: QueueLab) -> None:
    with pytest.raises(Exception, match="Expected"):
        await q.store.set_policy(0, "{oh")
    assert await q.state() == QueueState()


async def test_a_pulse_tells_the_policy_to_whoever_knows_another_one(q: QueueLab) -> None:
    assert (await q.store.pulse(5000, [])).policy is None
    assert (await q.store.pulse(5000, [], 3)).policy == ""
    await q.store.set_policy(0, text(8, attempts=7))
    for known, told in ((0, text(8, attempts=7)), (7, text(8, attempts=7)), (9, text(8, attempts=7)), (8, None)):
        assert (await q.store.pulse(5000, [], known)).policy == told


# Priority ----------------------------------------------------------------------------------------------------------------------------------------------


async def test_jobs_that_name_no_priority_take_that_of_the_queue(q: QueueLab) -> None:
    await q.store.set_policy(0, text(priority=-3))
    report = await q.store.enqueue([item("own", priority=-4), item("none", priority=None), item("zero", priority=0)], priority=-3)
    assert report.words == ["MADE"] * 3
    state = await q.state()
    assert state.waiting == ["own", "none", "zero"]
    assert [state.jobs[name].priority for name in state.waiting] == [-4, -3, 0]


async def test_a_broker_that_took_the_priority_for_another_makes_nothing_and_learns_it(q: QueueLab) -> None:
    await q.store.set_policy(0, text(priority=1))
    with pytest.raises(PolicyChanged) as caught:
        await q.store.enqueue([item("a"), item("b", priority=None)], priority=5)
    assert caught.value.text == text(priority=1)
    assert (await q.state()).jobs == {}
    # Where no job asks for it, it does not matter.
    assert (await q.store.enqueue([item("a")], priority=5)).words == ["MADE"]


async def test_an_enqueue_that_is_repeated_after_the_priority_was_changed_is_the_same(q: QueueLab) -> None:
    await q.make(item("a", priority=None))
    await q.store.set_policy(0, policy_to_text(policy_pb2.QueuePolicy(priority=1), 1, NO_POLICY))
    assert (await q.store.enqueue([item("a", priority=None)], priority=1)).words == ["MADE"]
    # What a caller names is part of the job, and so is everything beside the priority; nor did the queue ever have 9.
    await q.make(item("b", priority=9))
    assert (await q.store.enqueue([item("b", priority=None)], priority=1)).words == ["EXISTS"]
    assert (await q.store.enqueue([item("a", priority=1)])).words == ["EXISTS"]
    assert (await q.store.enqueue([item("a", priority=None, attempts=9)], priority=1)).words == ["EXISTS"]
    assert (await q.store.enqueue([item("a", priority=None, payload=b"x")], priority=1)).words == ["EXISTS"]
    assert (await q.state()).jobs == {"a": JobView("WAITING"), "b": JobView("WAITING", priority=9)}


# Attempts and backoff ----------------------------------------------------------------------------------------------------------------------------------


async def test_a_job_that_names_no_attempts_has_those_of_the_queue_as_it_is_now(q: QueueLab) -> None:
    await q.make(item("a", attempts=0), item("own", attempts=1))
    await q.attach("s")
    tokens = await q.lease("s", 2)
    await q.store.set_policy(0, text(attempts=2))
    assert await q.fail("own", tokens["own"], retry_after_ms=0) == ("OK", "FAILED")
    assert await q.fail("a", tokens["a"], retry_after_ms=0) == ("OK", "DELAYED")
    await q.come_due("a")
    token = (await q.lease("s", 1))["a"]
    await q.store.set_policy(1, text(2, attempts=3))
    assert await q.fail("a", token, retry_after_ms=0) == ("OK", "DELAYED")
    await q.come_due("a")
    assert await q.fail("a", (await q.lease("s", 1))["a"], retry_after_ms=0) == ("OK", "FAILED")
    # The record never holds what is the queue's.
    assert (await q.state()).jobs["a"].attempts == 0


async def test_who_reads_a_job_sees_the_attempts_that_hold_for_it(q: QueueLab) -> None:
    await q.make(item("a", attempts=0), item("own", attempts=9))

    async def seen() -> set[int]:
        found = {"a": (await q.store.get([b"a"]))[0].record, "own": (await q.store.get([b"own"]))[0].record}
        assert codec.header_of(found["own"]).attempts == 9
        records = [found["a"], (await q.store.page("w", b"", 1))[1][0][1], (await q.store.explain(b"a")).record]
        return {codec.header_of(record).attempts for record in records}

    assert await seen() == {3}
    await q.store.set_policy(0, text(attempts=4))
    assert await seen() == {4}
    async with q.heard() as heard:
        changed = await q.store.cancel(b"a", 0)
    assert codec.header_of(changed.record).attempts == 4
    assert [codec.header_of(record).attempts for record in heard.records] == [4]


async def waits(q: QueueLab, items: list[JobItem]) -> list[int]:
    """How long each waits after its first attempt, in ms."""
    await q.make(*items)
    await q.attach("s")
    tokens = await q.lease("s", len(items))
    found = []
    for raw_id, token in tokens.items():
        before = await q.now_ms()
        await q.fail(raw_id, token)
        due_ms = (await q.state()).numbers[raw_id].order // 1000
        found.append(due_ms - before)
    return found


async def test_a_job_without_waits_of_its_own_takes_those_of_the_queue(q: QueueLab) -> None:
    backoff = job_pb2.Backoff(base=Duration(seconds=100), factor=3, max_delay=Duration(seconds=200), jitter=0)
    await q.store.set_policy(0, text(backoff=backoff))
    own = codec.Backoff(1_000_000, 2000, 10_000_000, 0)
    of_queue, of_job = await waits(q, [item("a"), item("b", backoff=own)])
    assert 100_000 <= of_queue < 101_000
    assert 1_000_000 <= of_job < 1_001_000


@pytest.mark.parametrize(("attempt", "wait_ms"), [(1, 100_000), (2, 300_000), (3, 50_000), (4, 50_000)])
async def test_the_last_wait_of_a_list_holds_for_all_later_attempts(q: QueueLab, attempt: int, wait_ms: int) -> None:
    delays = [Duration(seconds=seconds) for seconds in (100, 300, 50)]
    await q.store.set_policy(0, text(attempts=9, backoff=job_pb2.Backoff(delays=delays, jitter=0)))
    await q.make(item("a", attempts=0))
    await q.attach("s")
    for _ in range(attempt):
        token = (await q.lease("s", 1))["a"]
        before = await q.now_ms()
        await q.fail("a", token)
        due_ms = (await q.state()).numbers["a"].order // 1000
        await q.store.promote(b"a")
    assert wait_ms <= due_ms - before < wait_ms + 1000


async def test_waits_that_the_queue_names_in_part_take_the_rest_from_the_defaults(q: QueueLab) -> None:
    await q.store.set_policy(0, text(backoff=job_pb2.Backoff(base=Duration(seconds=50))))
    assert 50_000 <= (await waits(q, [item("a")]))[0] <= 56_000


async def test_the_text_is_read_once_for_each_version_of_it(q: QueueLab) -> None:
    # A thousand texts pass through the memory of the function library, and it still gives the right one.
    for version in range(1, 1010):
        await q.redis.hset(q.base + "m", "policy", json.dumps({"v": version, "priority": version}))
    await q.store.enqueue([item("a", priority=None)], priority=1009)
    assert (await q.state()).jobs["a"].priority == 1009


# Payloads ----------------------------------------------------------------------------------------------------------------------------------------------


def payload(size: int) -> bytes:
    return job_pb2.Payload(data=bytes(size), content_type="x/y").SerializeToString()


def payload_section(content: bytes) -> bytes:
    return codec.SECTION.pack(codec.TAG_PAYLOAD, len(content)) + content


@pytest.mark.parametrize("most", [1, 127, 128, 300, 20_000])
async def test_a_payload_over_the_queues_bound_is_refused_for_itself(q: QueueLab, most: int) -> None:
    await q.make(item("before", payload=payload(most + 1)))
    await q.store.set_policy(0, text(max_payload_bytes=most))
    words = await q.make(
        item("fits", payload=payload(most)),
        item("large", payload=payload(most + 1)),
        item("none"),
        # What was made before the bound is found again.
        item("before", payload=payload(most + 1)),
        item("before", payload=payload(most + 2)),
        item("text", payload=job_pb2.Payload(json="x" * (most + 1)).SerializeToString()),
    )
    assert words == ["MADE", "TOO_LARGE", "MADE", "MADE", "EXISTS", "TOO_LARGE"]
    assert (await q.state()).waiting == ["before", "fits", "none"]


async def test_a_debounce_replaces_no_payload_by_one_over_the_queues_bound(q: QueueLab) -> None:
    await q.store.set_policy(0, text(max_payload_bytes=10))
    first = item("a", payload=payload(10), identity=debounced("k"))
    large = item("b", payload=payload(11), identity=debounced("k"))
    assert await q.make(first) == ["MADE"]
    before = await q.state()
    assert await q.make(large) == ["TOO_LARGE"]
    assert await q.state() == before
    assert await q.make(item("c", payload=payload(9), identity=debounced("k"))) == ["REPLACED a"]
    assert await q.make(item("d", payload=payload(11), identity=debounced("other"))) == ["TOO_LARGE"]


async def test_an_update_brings_no_payload_over_the_queues_bound(q: QueueLab) -> None:
    await q.store.set_policy(0, text(max_payload_bytes=10))
    await q.make(item("a", payload=payload(10)))
    before = await q.state()
    assert (await q.store.update(b"a", ("payload", payload_section(payload(11)), "priority", 1))).word == "TOO_LARGE"
    assert await q.state() == before
    assert (await q.store.update(b"a", ("payload", payload_section(payload(9))))).word == "OK"
    assert (await q.store.update(b"a", ("payload", b""))).word == "OK"


async def test_a_redrive_brings_no_payload_over_the_queues_bound(q: QueueLab) -> None:
    await q.make(item("large", payload=payload(11)), "a")
    await q.store.set_policy(0, text(max_payload_bytes=10))
    await q.attach("s")
    for raw_id, token in (await q.lease("s", 2)).items():
        await q.fail(raw_id, token, permanent=True)
    before = await q.state()
    assert (await q.store.redrive(b"a", payload_section(payload(11)))).word == "TOO_LARGE"
    assert await q.state() == before
    assert (await q.store.redrive(b"a", payload_section(payload(10)))).word == "OK"
    # What was taken before the bound goes on as it is.
    assert (await q.store.retry(b"large")).word == "OK"
