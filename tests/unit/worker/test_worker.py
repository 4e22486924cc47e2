"""A whole worker, in this process, against a broker whose every frame is written out: what handlers see and what the broker hears."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import grpc
import pytest
from jobwire.v1 import worker_service_pb2 as pb
from jobwire_worker import CancelReason, HealthPortError, Job, Limited, Permanent, QueueClass, RegistrationError, Retry, Snooze, Worker, _runner

from tests.unit.worker.scripted_broker import ScriptedBroker, WorkStream, scripted_broker
from tests.unit.worker.scripts import seconds


@pytest.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    async with scripted_broker() as broker:
        yield broker


def worker_for(*brokers: ScriptedBroker, **options: Any) -> Worker:
    given: dict[str, Any] = {"queues": ["q"], "concurrency": 3, "drain_grace": 5.0, **options}
    return Worker([broker.address for broker in brokers], **given)


@asynccontextmanager
async def running(worker: Worker, broker: ScriptedBroker, **welcome: Any) -> AsyncIterator[WorkStream]:
    """The worker started and welcomed. At the end what it holds is acked, so that it ends at once."""
    async with worker:
        stream = await broker.welcomed(**welcome)
        await worker.wait_connected()
        yield stream


@dataclass
class Size:
    width: int


# --- what handlers give back ---


async def test_coroutines_run_on_the_loop_of_the_program_and_plain_functions_in_threads(broker: ScriptedBroker) -> None:
    worker = worker_for(broker)

    @worker.handler("coroutine")
    async def coroutine(size: Size) -> Size:
        assert asyncio.get_running_loop() is home
        return Size(size.width * 2)

    @worker.handler("function")
    def function(job: Job, size: Size) -> str:
        assert threading.current_thread() is not threading.main_thread()
        return f"{job.name} {job.attempt}/{job.max_attempts} {size.width}"

    home = asyncio.get_running_loop()
    async with running(worker, broker) as stream:
        finish = await stream.run("coroutine", json='{"width":3}')
        assert finish.complete.result.json == '{"width":6}'
        finish = await stream.run("function", json='{"width":3}')
        assert json.loads(finish.complete.result.json) == "queues/q/jobs/j2 1/3 3"


async def raise_retry(job: Job) -> None:
    raise Retry("later", after=7)


async def raise_plain_retry(job: Job) -> None:
    raise Retry


def raise_permanent(job: Job) -> None:
    raise Permanent("no such photo")


async def raise_snooze(job: Job) -> None:
    raise Snooze(90)


async def raise_limited(job: Job) -> None:
    raise Limited(30)


def raise_value_error(job: Job) -> None:
    raise ValueError("bad value")


async def raise_exit(job: Job) -> None:
    raise SystemExit(3)


def raise_interrupt(job: Job) -> None:
    raise KeyboardInterrupt


def raise_generator_exit(job: Job) -> None:
    raise GeneratorExit


async def cancel_itself(job: Job) -> None:
    raise asyncio.CancelledError


async def give_back_object(job: Job) -> object:
    return object()


async def take_size(size: Size) -> None: ...


@pytest.mark.parametrize(
    ("handler", "kind", "permanent", "retry_after_s"),
    [
        (raise_retry, "Retry", False, 7),
        (raise_plain_retry, "Retry", False, None),
        (raise_permanent, "Permanent", True, None),
        (raise_value_error, "ValueError", False, None),
        (raise_exit, "SystemExit", False, None),
        (raise_interrupt, "KeyboardInterrupt", False, None),
        (raise_generator_exit, "GeneratorExit", False, None),
        (cancel_itself, "CancelledError", False, None),
        (give_back_object, "ResultError", True, None),
        (take_size, "PayloadError", True, None),
    ],
)
async def test_what_a_handler_raises_says_how_its_attempt_failed(
    broker: ScriptedBroker, handler: Any, kind: str, permanent: bool, retry_after_s: float | None
) -> None:
    worker = worker_for(broker)
    worker.handler("n")(handler)
    async with running(worker, broker) as stream:
        fail = (await stream.run("n")).fail
    assert (fail.failure.type, fail.permanent) == (kind, permanent)
    assert (fail.retry_after == seconds(retry_after_s)) if retry_after_s else not fail.HasField("retry_after")


async def test_a_hook_that_ends_its_thread_takes_neither_the_end_of_the_job_nor_the_slot_along(broker: ScriptedBroker) -> None:
    worker = worker_for(broker, concurrency=1)
    worker.handler("n")(raise_value_error)

    @worker.on_failed
    def interrupt(job: Job, error: BaseException, *, final: bool) -> None:
        raise KeyboardInterrupt

    async with running(worker, broker) as stream:
        for _ in range(2):
            assert (await stream.run("n")).fail.failure.type == "ValueError"


async def test_an_error_arrives_with_its_message_and_stack(broker: ScriptedBroker) -> None:
    worker = worker_for(broker)
    worker.handler("n")(raise_value_error)
    async with running(worker, broker) as stream:
        failure = (await stream.run("n")).fail.failure
    assert failure.message == "bad value"
    assert "in raise_value_error" in failure.stack


async def test_a_limit_of_the_group_is_no_failure(broker: ScriptedBroker) -> None:
    worker = worker_for(broker)
    worker.handler("n")(raise_limited)
    async with running(worker, broker) as stream:
        assert (await stream.run("n")).limit_group.delay == seconds(30)


async def test_a_snooze_is_no_failure(broker: ScriptedBroker) -> None:
    worker = worker_for(broker)
    worker.handler("n")(raise_snooze)
    async with running(worker, broker) as stream:
        assert (await stream.run("n")).snooze.delay == seconds(90)


async def test_a_job_without_a_handler_goes_back(broker: ScriptedBroker) -> None:
    worker = worker_for(broker)
    worker.handler("n")(take_size)
    async with running(worker, broker) as stream:
        assert (await stream.run("other")).release.reason == pb.RELEASE_REASON_NO_HANDLER


async def test_a_result_over_the_limit_fails_for_good(broker: ScriptedBroker) -> None:
    worker = worker_for(broker)
    failed: list[str] = []

    @worker.handler("n")
    async def big() -> str:
        return "x" * 1001

    @worker.on_failed
    def note(job: Job, error: Exception, *, final: bool) -> None:
        failed.append(f"{type(error).__name__} {final}")

    async with running(worker, broker, max_result_bytes=1000) as stream:
        fail = (await stream.run("n")).fail
    assert (fail.failure.type, fail.permanent, failed) == ("RESULT_TOO_LARGE", True, ["ResultError True"])


# --- time-outs and cancels ---


async def test_a_coroutine_over_its_timeout_is_cancelled_and_fails_as_timeout(broker: ScriptedBroker) -> None:
    worker = worker_for(broker)

    @worker.handler("n", timeout=0.05)
    async def slow() -> None:
        await asyncio.sleep(60)

    async with running(worker, broker) as stream:
        fail = (await stream.run("n")).fail
    assert (fail.failure.type, fail.permanent) == ("Timeout", False)
    assert "0.05 s" in fail.failure.message


async def test_a_thread_that_outlives_its_timeout_keeps_its_slot(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_runner, "TIMEOUT_GRACE_S", 0.05)
    worker, go_on = worker_for(broker, concurrency=1), threading.Event()

    @worker.handler("n", timeout=0.05)
    def stuck(job: Job) -> str:
        assert job.cancelled.wait_in_thread(10) is CancelReason.TIMEOUT
        go_on.wait(10)
        return "too late"

    async with running(worker, broker) as stream:
        fail = (await stream.run("n")).fail
        assert fail.failure.type == "Timeout"
        assert stream.said.credit.jobs == 1
        go_on.set()
        said = await stream.until(lambda said: said.credit.jobs == 2)
        assert len(said.finishes) == 1


async def test_the_shorter_of_the_timeouts_of_job_and_handler_holds(broker: ScriptedBroker) -> None:
    worker = worker_for(broker)
    seen: list[timedelta | None] = []

    @worker.handler("own", timeout=60)
    @worker.handler("none")
    async def slow(job: Job) -> None:
        seen.append(job.timeout)
        await asyncio.sleep(60)

    async with running(worker, broker) as stream:
        for name in ("own", "none"):
            (job,) = await stream.deliver(name, timeout_s=0.05)
            assert "its timeout of 0.05 s" in (await stream.finish_of(job)).fail.failure.message
    assert seen == [timedelta(seconds=0.05)] * 2


async def test_an_attempt_that_the_broker_has_ended_is_not_answered(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_runner, "TIMEOUT_GRACE_S", 0.05)
    worker, go_on = worker_for(broker, concurrency=1), threading.Event()
    told: list[str] = []

    @worker.handler("n")
    def stuck(job: Job) -> None:
        assert job.cancelled.wait_in_thread(10) is CancelReason.TIMEOUT
        go_on.wait(10)

    @worker.on_failed
    def note(job: Job, error: Exception, *, final: bool) -> None:
        told.append(type(error).__name__)
        go_on.set()

    async with running(worker, broker) as stream:
        (job,) = await stream.deliver("n")
        await stream.send(pb.WorkResponse(cancels=[pb.Cancel(queue="q", id=job.id, token=job.token, reason=pb.CANCEL_REASON_TIMEOUT)]))
        said = await stream.until(lambda said: said.credit.jobs == 2)
        assert not said.finishes
    assert told == ["TimeoutError"]


async def test_a_cancel_reaches_coroutines_as_a_cancelled_error_and_threads_as_a_flag(broker: ScriptedBroker) -> None:
    worker, seen = worker_for(broker), []

    @worker.handler("coroutine")
    async def coroutine(job: Job) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append(job.cancelled.reason)
            raise

    @worker.handler("function")
    def function(job: Job) -> None:
        seen.append(job.cancelled.wait_in_thread(10))
        job.check_cancelled()

    async with running(worker, broker) as stream:
        jobs = await stream.deliver("coroutine", "function")
        await asyncio.sleep(0.05)
        for job in jobs:
            cancel = pb.Cancel(queue=job.queue, id=job.id, token=job.token, reason=pb.CANCEL_REASON_REQUESTED, grace=seconds(5))
            await stream.send(pb.WorkResponse(cancels=[cancel]))
            assert (await stream.finish_of(job)).fail.failure.type == "Cancelled"
        assert {receipt.id for receipt in stream.said.cancel_receipts} == {job.id for job in jobs}
    assert seen == [CancelReason.REQUESTED, CancelReason.REQUESTED]


async def test_a_completion_after_a_cancel_still_counts(broker: ScriptedBroker) -> None:
    worker = worker_for(broker)

    @worker.handler("n")
    async def careful(job: Job) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "done all the same"
        return "never"

    async with running(worker, broker) as stream:
        (job,) = await stream.deliver("n")
        await asyncio.sleep(0.05)
        await stream.send(pb.WorkResponse(cancels=[pb.Cancel(queue="q", id=job.id, token=job.token, reason=pb.CANCEL_REASON_REQUESTED)]))
        assert (await stream.finish_of(job)).HasField("complete")


async def test_an_uncertain_lease_is_told_and_does_not_stop_the_handler(broker: ScriptedBroker) -> None:
    worker = worker_for(broker)

    @worker.handler("n")
    async def n(job: Job) -> str:
        reason = await job.cancelled.wait()
        job.check_cancelled()  # does not raise: it may pass
        while job.cancelled:
            await asyncio.sleep(0.01)
        return reason.value

    async with running(worker, broker) as stream:
        (job,) = await stream.deliver("n")
        await stream.send(pb.WorkResponse(ping=pb.Ping(number=1, lease_left=seconds(0))))
        await stream.until(lambda said: said.pong.number == 1)
        await asyncio.sleep(0.05)
        await stream.send(pb.WorkResponse(ping=pb.Ping(number=2, lease_left=seconds(9))))
        assert (await stream.finish_of(job)).complete.result.json == '"lease_uncertain"'


# --- progress, logs, hooks ---


async def test_progress_and_logs_come_from_threads_and_coroutines(broker: ScriptedBroker) -> None:
    worker = worker_for(broker)

    @worker.handler("coroutine")
    async def coroutine(job: Job) -> None:
        job.progress(40, "resizing", data={"size": 3})
        job.log("one")

    @worker.handler("function")
    def function(job: Job) -> None:
        for percent in range(1000):
            job.progress(percent / 10)
        job.progress(50)  # never falls
        job.log("two", level="warning")

    async with running(worker, broker) as stream:
        await stream.run("coroutine")
        (report,) = stream.said.progress
        assert (report.progress.percent, report.progress.message, report.progress.data_json) == (40, "resizing", '{"size":3}')
        await stream.run("function")
        assert stream.said.progress[-1].progress.percent == pytest.approx(99.9)
        assert len(stream.said.progress) < 50
        lines = [(line.sequence, line.level, line.message) for log in stream.said.logs for line in log.lines]
        assert lines == [(1, "info", "one"), (1, "warning", "two")]


async def test_hooks_hear_of_starts_completions_and_failures_and_whether_they_are_final(broker: ScriptedBroker) -> None:
    worker, heard = worker_for(broker), []

    @worker.handler("good")
    async def good() -> str:
        return "result"

    @worker.handler("bad")
    def bad() -> None:
        raise ValueError

    @worker.on_started
    def started(job: Job) -> None:
        heard.append(f"started {job.job_name}")

    @worker.on_completed
    async def completed(job: Job, result: Any) -> None:
        heard.append(f"completed {result}")

    @worker.on_failed
    async def failed(job: Job, error: Exception, *, final: bool) -> None:
        heard.append(f"failed {type(error).__name__} {final}")

    @worker.on_failed
    def broken(job: Job, error: Exception, *, final: bool) -> None:
        raise RuntimeError("a hook that fails changes nothing")

    async with running(worker, broker) as stream:
        await stream.run("good")
        await stream.run("bad", attempt=1)
        await stream.run("bad", attempt=3)
    assert heard == ["started good", "completed result", "started bad", "failed ValueError False", "started bad", "failed ValueError True"]


# --- streams that break ---


async def test_a_broken_stream_is_resumed_with_all_that_is_held(broker: ScriptedBroker) -> None:
    worker, go_on = worker_for(broker), asyncio.Event()

    @worker.handler("n")
    async def n() -> None:
        await go_on.wait()

    async with running(worker, broker) as stream:
        (job,) = await stream.deliver("n")
        await asyncio.sleep(0.05)
        stream.end(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        again = await broker.welcomed()
        assert [held.token for held in again.said.hello.held] == [job.token]
        assert (again.said.hello.session, again.said.hello.epoch) == (stream.said.hello.session, 2)
        go_on.set()
        assert (await again.finish_of(job)).HasField("complete")


async def test_a_superseded_worker_comes_back_as_a_new_session(broker: ScriptedBroker) -> None:
    worker, told = worker_for(broker), asyncio.Event()

    @worker.handler("n")
    async def n(job: Job) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            assert job.cancelled.reason is CancelReason.STALE_LEASE
            told.set()

    async with running(worker, broker) as stream:
        await stream.deliver("n")
        await asyncio.sleep(0.05)
        stream.end(grpc.StatusCode.ABORTED, "SESSION_MOVED")
        again = await broker.welcomed()
        assert (again.said.hello.session != stream.said.hello.session, again.said.hello.epoch, len(again.said.hello.held)) == (True, 1, 0)
        async with asyncio.timeout(5):
            await told.wait()


async def test_go_away_leads_to_the_other_broker(broker: ScriptedBroker) -> None:
    async with scripted_broker() as other:
        worker = worker_for(broker, other)
        worker.handler("n")(take_size)
        async with worker:
            pending = {asyncio.create_task(each.stream()): each for each in (broker, other)}
            (first,), (waiting,) = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            stream = first.result()
            await stream.welcome()
            await stream.send(pb.WorkResponse(go_away=pb.GoAway(retry_after=seconds(30))))
            async with asyncio.timeout(2):
                second = await waiting
            await second.welcome()
            assert second.said.hello.epoch == 2


async def test_a_silent_broker_is_left_before_the_session_time_is_over(broker: ScriptedBroker) -> None:
    worker = worker_for(broker)
    worker.handler("n")(take_size)
    async with running(worker, broker, session_time_s=1.0):
        began = time.monotonic()
        again = await broker.welcomed()
        assert time.monotonic() - began < 1.0
        assert again.said.hello.epoch == 2


async def test_a_handler_that_blocks_its_loop_keeps_its_session(broker: ScriptedBroker) -> None:
    worker = worker_for(broker)

    @worker.handler("n")
    async def blocks() -> None:
        time.sleep(1.5)

    # The broker must live on another loop than the one that is blocked.
    async with on_its_own_loop(lambda: worker):
        stream = await broker.welcomed(session_time_s=1.0)
        (job,) = await stream.deliver("n")
        for number in range(1, 15):
            await stream.send(pb.WorkResponse(ping=pb.Ping(number=number, lease_left=seconds(1))))
            await stream.until(partial(ponged, number))
            await asyncio.sleep(0.1)
        await stream.finish_of(job)
        assert broker.opened == 1


async def test_what_is_delivered_while_the_program_is_busy_starting_runs(broker: ScriptedBroker) -> None:
    worker = worker_for(broker)
    worker.handler("n")(take_size)
    delivered = threading.Event()

    @asynccontextmanager
    async def busy_start() -> AsyncIterator[None]:
        starting = asyncio.create_task(worker.__aenter__())
        await asyncio.sleep(0)  # the stream's thread has been started
        delivered.wait(10)  # and this loop does nothing else before the jobs are here
        await starting
        yield
        await worker.stop()

    async with on_its_own_loop(busy_start):
        stream = await broker.welcomed()
        (job,) = await stream.deliver("n", json='{"width":3}')
        await asyncio.sleep(0.05)
        delivered.set()
        await stream.finish_of(job)


async def test_a_start_that_was_given_up_leaves_no_stream_behind(broker: ScriptedBroker) -> None:
    worker = worker_for(broker)
    worker.handler("n")(take_size)
    starting = asyncio.create_task(worker.__aenter__())
    await asyncio.sleep(0)
    time.sleep(0.2)  # the stream is there, and the start has not heard of it
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    async with asyncio.timeout(5):
        while any(thread.name == "jobwire-stream" for thread in threading.enumerate()):
            await asyncio.sleep(0.01)
    worker.handler("other")(take_size)  # it does not run any more


def ponged(number: int, said: pb.WorkRequest) -> bool:
    return said.pong.number == number


@asynccontextmanager
async def on_its_own_loop(made: Callable[[], AbstractAsyncContextManager[Any]]) -> AsyncIterator[None]:
    end = threading.Event()

    async def live() -> None:
        async with made():
            while not end.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    try:
        yield
    finally:
        end.set()
        await asyncio.to_thread(thread.join)


# --- the end ---


async def test_stopping_lets_what_runs_end_and_says_goodbye(broker: ScriptedBroker) -> None:
    worker = worker_for(broker)
    go_on = asyncio.Event()

    @worker.handler("n")
    async def n() -> str:
        await go_on.wait()
        return "done"

    await worker.__aenter__()
    stream = await broker.welcomed()
    (job,) = await stream.deliver("n")
    await asyncio.sleep(0.05)
    stopping = asyncio.create_task(worker.stop())
    await stream.until(lambda said: said.HasField("draining"))
    late = (await stream.deliver("n"))[0]
    assert (await stream.finish_of(late)).release.reason == pb.RELEASE_REASON_DRAINING
    go_on.set()
    assert (await stream.finish_of(job)).complete.result.json == '"done"'
    await stream.until(lambda said: said.HasField("goodbye"))
    await stream.over()
    stream.end()
    await stopping


async def test_what_outlives_the_grace_is_cancelled_and_handed_back(broker: ScriptedBroker) -> None:
    worker, seen = worker_for(broker, drain_grace=0.1), []

    @worker.handler("n")
    async def n(job: Job) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            seen.append(job.cancelled.reason)

    async with running(worker, broker) as stream:
        (job,) = await stream.deliver("n")
        await asyncio.sleep(0.05)
        stopping = asyncio.create_task(worker.stop())
        assert (await stream.finish_of(job)).release.reason == pb.RELEASE_REASON_DRAINING
        await stream.until(lambda said: said.HasField("goodbye"))
        await stopping
    assert seen == [CancelReason.SHUTDOWN]


async def test_a_worker_that_never_reached_a_broker_stops_at_once() -> None:
    worker = Worker("127.0.0.1:1", queues=["q"])
    worker.handler("n")(take_size)
    async with asyncio.timeout(3), worker:
        pass


async def test_a_worker_that_runs_takes_no_handlers_and_does_not_start_twice(broker: ScriptedBroker) -> None:
    worker = worker_for(broker)
    worker.handler("n")(take_size)
    async with running(worker, broker):
        with pytest.raises(RegistrationError, match="runs already"):
            worker.handler("m")(take_size)
        with pytest.raises(RuntimeError, match="runs already"):
            await worker.__aenter__()


async def test_a_worker_can_be_started_again(broker: ScriptedBroker) -> None:
    worker = worker_for(broker)
    worker.handler("n")(raise_snooze)
    sessions = set()
    for _ in range(2):
        async with running(worker, broker) as stream:
            await stream.run("n")
            sessions.add(stream.said.hello.session)
    assert len(sessions) == 2


# --- health ---


async def get(port: int, request: bytes = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") -> tuple[int, dict[str, Any]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body) if body else {}


async def test_the_health_port_is_green_while_frames_come_and_red_when_the_stream_is_dead(broker: ScriptedBroker) -> None:
    worker = worker_for(broker, health="127.0.0.1:0")
    worker.handler("n")(take_size)
    async with worker:
        assert worker.health_port is not None
        assert (await get(worker.health_port))[0] == 503
        stream = await broker.welcomed()
        await worker.wait_connected()
        status, state = await get(worker.health_port)
        assert (status, state["status"], state["broker"]) == (200, "ok", broker.address)
        assert (await get(worker.health_port, b"POST / HTTP/1.1\r\n\r\n"))[0] == 405
        assert (await get(worker.health_port, b"HEAD / HTTP/1.1\r\n\r\n")) == (200, {})
        stream.end(grpc.StatusCode.UNAVAILABLE)
        await broker.stream()
        assert (await get(worker.health_port))[0] == 503


async def test_a_health_port_that_is_taken_is_an_error_at_the_start(broker: ScriptedBroker) -> None:
    worker = worker_for(broker, health=broker.address)
    worker.handler("n")(take_size)
    with pytest.raises(HealthPortError, match=f"health checks can't be answered at {broker.address}: address already in use; free it, or give another"):
        await worker.__aenter__()
    assert worker.health_port is None


# --- slots that are kept ---


async def test_a_worker_tells_the_broker_for_whom_it_keeps_slots(broker: ScriptedBroker) -> None:
    worker = worker_for(broker, queues=["q", "r"], concurrency=5, reserved={"q": 2, QueueClass.CRITICAL: 3})
    worker.handler("n")(take_size)
    async with running(worker, broker) as stream:
        assert list(stream.said.hello.reserved) == [pb.Reserve(queue="q", slots=2), pb.Reserve(queue_class=QueueClass.CRITICAL.value, slots=3)]


@pytest.mark.parametrize(
    ("reserved", "sentence"),
    [
        ({"other": 1}, r"reserved names 'other', which is neither one of the worker's queues \['q'\] nor a QueueClass"),
        ({"q": 0}, "the slots reserved for queue 'q' must be a whole number from 1, got 0"),
        ({QueueClass.LOW: True}, "the slots reserved for class LOW must be a whole number from 1, got True"),
        ({"q": 3, QueueClass.LOW: 3}, "6 slots are reserved of a worker that runs 5 jobs at once"),
        (["q"], "reserved must be a mapping"),
    ],
)
def test_slots_that_a_worker_cannot_keep_are_refused(reserved: Any, sentence: str) -> None:
    with pytest.raises(RegistrationError, match=sentence):
        Worker(queues=["q"], concurrency=5, reserved=reserved)


def test_a_worker_of_more_than_ten_thousand_at_once_is_refused_when_it_is_made() -> None:
    with pytest.raises(RegistrationError, match="from 1 to 10000"):
        Worker(queues=["q"], concurrency=10_001)
