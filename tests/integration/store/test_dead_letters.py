"""Failed jobs in groups of one fingerprint, exact as they come and go, and notes on them; with the whole state of the queue after each call."""

import pytest
from jobwire.v1 import job_pb2
from jobwire_broker.store import codec
from jobwire_broker.store.answers import FailedAlike
from jobwire_broker.store.arguments import TurnItem

from tests.support.fingerprint import fingerprint, shape
from tests.support.queue_lab import QueueLab
from tests.support.queue_state import JobView

FAILED = job_pb2.JOB_STATE_FAILED


def boom(message: str = "can't open 'a.txt'", kind: str = "Boom") -> job_pb2.Failure:
    return job_pb2.Failure(type=kind, message=message, stack="line 1\nline 2")


async def fail_all(q: QueueLab, failures: dict[str, job_pb2.Failure]) -> None:
    """Make jobs, and let each fail for good, in this order."""
    tokens = await q.leased(*failures)
    for raw_id, failure in failures.items():
        await q.fail(raw_id, tokens[raw_id], permanent=True, failure=failure)


async def groups(q: QueueLab) -> list[FailedAlike]:
    return (await q.store.failures(b"", 100))[2]


def of(failure: job_pb2.Failure) -> bytes:
    return fingerprint("work", failure.SerializeToString())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("took 1.5 s", "took 12 s"),
        ("can't open 'a.txt'", "can't open 'some other file.txt'"),
        ('no "x"', 'no "y z"'),
        ("no `x`", "no `yy`"),
        ("user 3f2a9c1e-aaaa-bbbb-cccc-ddddeeeeffff is gone", "user 00000000-1111-2222-3333-444455556666 is gone"),
        ("object deadbeefcafe", "object 0123456789ab"),
        ("at 0x7f00", "at 0xdeadbeef12"),
        ("retry in -5", "retry in 7"),
        ("1,024 bytes", "7 bytes"),
        ("GET /v1/users/17: 404", "GET /v1/users/99: 503"),
    ],
)
async def test_messages_that_differ_in_what_they_name_are_one_group(q: QueueLab, first: str, second: str) -> None:
    await fail_all(q, {"a": boom(first), "b": boom(second)})
    await q.state()
    assert [row.jobs for row in await groups(q)] == [2]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (boom("no such file"), boom("no such user")),
        (boom(kind="Boom"), boom(kind="Bang")),
        (boom(), job_pb2.Failure(type="Boom", message=boom().message, reason="TIMEOUT")),
        (boom("can't read"), boom("can't write")),
    ],
)
async def test_other_failures_are_other_groups(q: QueueLab, first: job_pb2.Failure, second: job_pb2.Failure) -> None:
    await fail_all(q, {"a": first, "b": second})
    await q.state()
    assert [row.jobs for row in await groups(q)] == [1, 1]


async def test_another_job_name_is_another_group(q: QueueLab) -> None:
    from jobwire_broker.store.arguments import JobItem

    await q.store.enqueue([JobItem(name.encode(), "", 5, 3, codec.encode_body(name, b"", None, 0)) for name in ("a", "b")])
    await q.attach("s")
    for raw_id, token in (await q.lease("s", 2)).items():
        await q.fail(raw_id, token, permanent=True, failure=boom())
    await q.state()
    assert {row.fingerprint for row in await groups(q)} == {fingerprint(name, boom().SerializeToString()) for name in ("a", "b")}


def test_the_shape_of_a_message_is_bounded() -> None:
    assert shape(b"open 'a' and 'b', 17 times") == b" open ' and ', # times"
    assert len(shape(b"word " * 1000)) == 256


async def test_a_message_of_any_bytes_gets_a_fingerprint(q: QueueLab) -> None:
    failures = ["", "'", '"', "é" * 1024, "''''\"\"\"```", "a" * 2048, "1" * 2048, "\x00\n\t" * 600, "%d %s %%", "'" + "x" * 2040]
    await fail_all(q, {f"j{i}": boom(message) for i, message in enumerate(failures)})
    await q.state()


async def test_what_is_no_failure_is_grouped_all_the_same(q: QueueLab) -> None:
    tokens = await q.leased("a", "b", "c")
    for (raw_id, token), said in zip(tokens.items(), (b"", b"why", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7fx"), strict=True):
        await q.turn("F", raw_id, token, said, -2)
    await q.state()
    assert [row.jobs for row in await groups(q)] == [3]


async def test_a_group_says_when_its_first_and_its_latest_failed_and_shows_the_latest(q: QueueLab) -> None:
    await fail_all(q, {"a": boom("open '1'"), "b": boom("other"), "c": boom("open '3'")})
    state = await q.state()
    latest, other = await groups(q)
    ends = {raw_id: numbers.revision for raw_id, numbers in state.numbers.items()}
    assert latest[:6] == (of(boom("open 'x'")), 2, 0, ends["a"], ends["c"], b"c")
    assert other[:6] == (of(boom("other")), 1, 0, ends["b"], ends["b"], b"b")
    job = codec.job_from_record("q", b"c", latest.record)
    assert (job.failure.message, job.job_name, job.fingerprint) == ("open '3'", "work", latest.fingerprint.hex())


async def test_groups_come_in_pages(q: QueueLab) -> None:
    await fail_all(q, {f"j{word}": boom(word) for word in ("one", "two", "three", "four", "five")})
    cursor, total, first = await q.store.failures(b"", 2)
    cursor, _, second = await q.store.failures(cursor, 2)
    cursor, _, third = await q.store.failures(cursor, 2)
    assert (total, cursor) == (5, b"")
    assert [row.latest for row in first + second + third] == [b"jfive", b"jfour", b"jthree", b"jtwo", b"jone"]


async def test_a_queue_where_nothing_failed_has_no_groups(q: QueueLab) -> None:
    assert await q.store.failures(b"", 10) == (b"", 0, [])
    assert await q.redis.keys(q.base + "*") == []


async def test_a_job_that_is_to_run_again_has_no_fingerprint_yet(q: QueueLab) -> None:
    tokens = await q.leased("a")
    await q.fail("a", tokens["a"], failure=boom())
    state = await q.state()
    assert (state.jobs["a"].state, await groups(q)) == ("DELAYED", [])


@pytest.mark.parametrize("way", ["retry", "delete", "clean"])
async def test_a_group_is_exact_as_its_jobs_go(q: QueueLab, way: str) -> None:
    await fail_all(q, {"a": boom(), "b": boom(), "c": boom()})
    ends = {raw_id: numbers.revision for raw_id, numbers in (await q.state()).numbers.items()}
    expected = [(3, ends["a"], ends["c"], b"c"), (2, ends["a"], ends["b"], b"b"), (1, ends["a"], ends["a"], b"a")]
    gone = ["c", "b", "a"]
    if way == "clean":
        # A clean goes from the oldest on.
        expected = [(3, ends["a"], ends["c"], b"c"), (2, ends["b"], ends["c"], b"c"), (1, ends["c"], ends["c"], b"c")]
        gone = ["a", "b", "c"]
    for shown, raw_id in zip(expected, gone, strict=True):
        (row,) = await groups(q)
        assert (row.jobs, row.first_us, row.last_us, row.latest) == shown
        if way == "clean":
            await q.store.clean(FAILED, 0, ends[raw_id])
        else:
            await (q.store.retry if way == "retry" else q.store.delete)(raw_id.encode())
        await q.state()
    assert await groups(q) == []
    assert [key for key in await q.redis.keys(q.base + "*") if key.removeprefix(q.base.encode()) in (b"D", b"R", b"F")] == []


async def test_a_group_is_exact_as_its_jobs_become_too_old(q: QueueLab) -> None:
    await fail_all(q, {"a": boom(), "b": boom()})
    await q.store.resolve(b"a", "done")
    old = await q.now_ms() * 1000 - 31 * 86_400_000_000
    record = bytearray(await q.redis.get(q.base + "ja"))
    at = bytes(record).rindex(b"done") - 16
    place = (await q.redis.zrange(q.base + "D", 0, 0))[0]
    record[at : at + 8] = old.to_bytes(8, "big")
    for suffix in ("D", "R"):
        await q.redis.zrem(q.base + suffix, place)
        await q.redis.zadd(q.base + suffix, {place[:8] + old.to_bytes(8, "big") + b"a": 0})
    await q.redis.set(q.base + "ja", bytes(record))
    await q.redis.zadd(q.base + "f", {b"a": old})
    await q.state()
    await q.pulse()
    state = await q.state()
    assert (state.failed, state.notes) == (["b"], {})
    assert [(row.jobs, row.resolved) for row in await groups(q)] == [(1, 0)]


async def test_the_ends_that_jobwire_gives_have_fingerprints(q: QueueLab) -> None:
    await q.make("lost")
    for _ in range(3):
        await q.attach("s")
        await q.come_due("lost")
        await q.lease("s", 1)
        await q.lose("s")
    await q.make("returned")
    await q.attach("t")
    for _ in range(5):
        await q.come_due("returned")
        await q.turn("R", "returned", (await q.lease("t", 1))["returned"], "NO_HANDLER")
    state = await q.state(dates_moved=True)
    assert state.failed == ["lost", "returned"]
    assert [codec.job_from_record("q", row.latest, row.record).failure.reason for row in await groups(q)] == ["NO_HANDLER", "POISON"]


# Notes ------------------------------------------------------------------------------------------------------------------------------------------------


async def test_a_note_stays_with_the_job_which_stays_at_its_place(q: QueueLab) -> None:
    await fail_all(q, {"a": boom(), "b": boom()})
    before = await q.state()
    async with q.heard() as heard:
        changed = await q.store.resolve(b"a", "known: ticket 7")
    after = await q.state()
    before.notes = {"a": "known: ticket 7"}
    assert after == before
    assert after.numbers["a"].revision > before.numbers["b"].revision
    assert heard.events == [("a", "FAILED")]
    shown = codec.job_from_record("q", b"a", changed.record)
    assert (changed.word, shown.resolution.note) == ("OK", "known: ticket 7")
    assert shown.finish_time.ToMicroseconds() == before.numbers["a"].revision
    assert shown.finish_time.ToMicroseconds() < shown.resolution.resolve_time.ToMicroseconds() <= shown.revision
    (row,) = await groups(q)
    assert (row.jobs, row.resolved, row.latest) == (2, 1, b"b")


async def test_a_second_note_replaces_the_first(q: QueueLab) -> None:
    await fail_all(q, {"a": boom()})
    end = (await q.state()).numbers["a"].revision
    for note in ("one", "", "two"):
        assert (await q.store.resolve(b"a", note)).word == "OK"
        assert (await q.state()).notes == {"a": note}
    (row,) = await groups(q)
    assert (row.jobs, row.resolved, row.last_us) == (1, 1, end)


async def test_only_what_has_failed_is_resolved(q: QueueLab) -> None:
    tokens = await q.leased("runs", "done")
    await q.complete("done", tokens["done"])
    await q.make("waits")
    before = await q.state()
    words = {raw_id: (await q.store.resolve(raw_id.encode(), "x")).word for raw_id in ("runs", "done", "waits", "none")}
    assert words == {"runs": "WRONG_STATE", "done": "WRONG_STATE", "waits": "WRONG_STATE", "none": "NOT_FOUND"}
    assert await q.state() == before


@pytest.mark.parametrize("way", ["retry", "delete", "clean"])
async def test_a_note_goes_when_the_job_has_not_failed_any_more(q: QueueLab, way: str) -> None:
    await fail_all(q, {"a": boom(), "b": boom()})
    await q.store.resolve(b"a", "x")
    if way == "retry":
        await q.store.retry(b"a")
        token = (await q.lease("s", 1))["a"]
        assert (await q.state()).notes == {}
        await q.fail("a", token, permanent=True, failure=boom())
    elif way == "delete":
        await q.store.delete(b"a")
    else:
        await q.store.clean(FAILED, 0, (await q.state()).numbers["b"].revision - 1)
    state = await q.state()
    assert state.notes == {}
    assert [row.resolved for row in await groups(q)] == [0]


async def test_a_resolved_job_that_is_retried_and_completed_leaves_no_group(q: QueueLab) -> None:
    await fail_all(q, {"a": boom()})
    await q.store.resolve(b"a", "x")
    await q.store.retry(b"a")
    await q.complete("a", (await q.lease("s", 1))["a"])
    state = await q.state()
    assert state.jobs["a"] == JobView("COMPLETED", attempt=1, progress=100.0, ended="COMPLETE", sections={"failure": boom().SerializeToString()})
    assert await groups(q) == []


async def test_many_failures_of_one_call_are_all_counted(q: QueueLab) -> None:
    tokens = await q.leased(*(f"j{i:03}" for i in range(100)))
    said = boom().SerializeToString()
    await q.store.turn([TurnItem("F", raw_id.encode(), token, said, -2) for raw_id, token in tokens.items()])
    await q.state()
    assert [(row.jobs, row.latest) for row in await groups(q)] == [(100, b"j099")]


# Pages of one fingerprint -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upward", [False, True])
async def test_the_jobs_of_a_fingerprint_come_in_pages_either_way(q: QueueLab, upward: bool) -> None:
    names = [f"j{i}" for i in range(7)]
    await fail_all(q, {name: boom("one" if i % 2 == 0 else "two") for i, name in enumerate(names)})
    for resolved in ("j0", "j4"):
        await q.store.resolve(resolved.encode(), "x")

    async def all_of(index: bytes) -> list[str]:
        found, cursor = [], b""
        while True:
            cursor, page = await q.store.page(index, cursor, 2, upward=upward)
            found += [raw_id.decode() for raw_id, _ in page]
            if not cursor:
                return found

    expected = ["j0", "j2", "j4", "j6"]
    assert await all_of(b"D" + of(boom("one"))) == (expected if upward else expected[::-1])
    assert await all_of(b"R" + of(boom("one"))) == (["j0", "j4"] if upward else ["j4", "j0"])
    assert await all_of(b"f") == (names if upward else names[::-1])
