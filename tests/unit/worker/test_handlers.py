"""What may be registered, and how it is called. What cannot work is refused when it is made, with a sentence that says what would."""

import functools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from jobwire.v1 import job_pb2
from jobwire.v1 import worker_service_pb2 as pb
from jobwire_worker import Job, PayloadError, RegistrationError, Worker
from jobwire_worker._handlers import Handler, Registry


class Bin:
    """Reports that nobody reads."""

    def put(self, item: Any, /) -> None: ...


def registered(function: Callable[..., Any], name: str = "n", timeout: timedelta | float | None = None) -> Handler:
    registry = Registry()
    registry.add(name, function, timeout)
    found = registry.find(name)
    assert found is not None
    return found


def arguments(function: Callable[..., Any], json: str | None = '{"width":3}') -> tuple[Any, ...]:
    payload = job_pb2.Payload(json=json) if json is not None else job_pb2.Payload()
    delivery = pb.Delivery(queue="q", id="a", payload=payload)
    return registered(function).arguments(Job(delivery, Bin()), payload)


@dataclass(frozen=True)
class Size:
    width: int


def test_a_handler_takes_job_payload_both_or_nothing_in_any_order() -> None:
    def nothing() -> None: ...
    def job_alone(it: Job) -> None: ...
    def payload_alone(size: Size) -> None: ...
    def both(job: Job, size: Size) -> None: ...
    def reverse(size: Size, job: Job) -> None: ...

    assert arguments(nothing) == ()
    assert [type(argument) for argument in arguments(job_alone)] == [Job]
    assert arguments(payload_alone) == (Size(3),)
    assert [type(argument) for argument in arguments(both)] == [Job, Size]
    assert [type(argument) for argument in arguments(reverse)] == [Size, Job]


def test_a_typed_job_carries_its_payload() -> None:
    def typed(job: Job[Size]) -> None: ...
    def plain(job: Job[Any]) -> None: ...

    assert arguments(typed)[0].payload == Size(3)
    assert arguments(plain)[0].payload == {"width": 3}
    with pytest.raises(PayloadError, match="width"):
        arguments(typed, "{}")


def test_a_default_stands_in_for_an_empty_payload() -> None:
    def handler(size: Size = Size(7)) -> None: ...  # frozen

    assert arguments(handler, None) == (Size(7),)
    assert arguments(handler) == (Size(3),)


def test_methods_partials_and_callable_objects_can_be_handlers() -> None:
    class Callable_:
        async def __call__(self, size: Size) -> None: ...

        def method(self, size: Size) -> None: ...

    async def with_more(size: Size, *, factor: int = 2) -> None: ...

    assert registered(Callable_()).is_async
    assert not registered(Callable_().method).is_async
    assert registered(functools.partial(with_more, factor=3)).is_async
    assert arguments(Callable_()) == arguments(functools.partial(with_more, factor=3)) == (Size(3),)


def test_the_star_takes_names_that_no_other_does() -> None:
    registry = Registry()
    registry.add("a", lambda: 1, None)
    assert registry.find("b") is None
    registry.add("*", lambda: 2, None)
    found = [registry.find(name) for name in ("a", "b")]
    assert [handler.name for handler in found if handler] == ["a", "*"]


def no_annotation(payload) -> None: ...  # type: ignore[no-untyped-def]  # the point of the test
def named_job(job) -> None: ...  # type: ignore[no-untyped-def]  # the point of the test
def two_payloads(first: dict[str, Any], second: Size) -> None: ...
def two_jobs(first: Job, second: Job) -> None: ...
def three(job: Job, first: Size, second: Size) -> None: ...
def needs_more(job: Job, *, factor: int) -> None: ...
def many(*jobs: Job) -> None: ...
def not_json(payload: complex) -> None: ...
def unknown(payload: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821  # the point of the test
def no_member(payload: "os.Nothing") -> None: ...  # type: ignore[name-defined]  # the point of the test
def no_end(payload: object) -> None: ...
def no_generic(job: "Job[int, str]") -> None: ...  # type: ignore[type-arg]  # the point of the test
def yields(job: Job) -> Iterator[int]:
    yield 1


no_end.__annotations__["payload"] = "list[int"


async def yields_too(job: Job) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (no_annotation, "annotate the parameter 'payload'"),
        (named_job, "`job: Job`"),
        (two_payloads, "exactly one"),
        (two_jobs, "exactly one"),
        (three, "takes 3 arguments"),
        (needs_more, "nobody fills"),
        (many, "nobody fills"),
        (not_json, "cannot be made into 'complex'"),
        (unknown, "define it at module level"),
        (no_member, "cannot be read .*has no attribute 'Nothing'"),
        (no_end, "cannot be read .SyntaxError"),
        (no_generic, "cannot be read .TypeError"),
        (yields, "must return"),
        (yields_too, "must return"),
        (Size, "is a class"),
        ("text", "must be a function"),
    ],
)
def test_a_function_that_cannot_be_a_handler_is_refused(function: Any, says: str) -> None:
    with pytest.raises(RegistrationError, match=says):
        registered(function)


@pytest.mark.parametrize("name", ["", " ", "-a", "a b", "a" * 129, "ü", 7, None])
def test_a_name_that_no_job_can_have_is_refused(name: Any) -> None:
    with pytest.raises(RegistrationError, match="cannot be the name of a job"):
        registered(lambda: None, name)


def test_a_second_handler_of_a_name_is_refused_and_the_first_is_named() -> None:
    registry = Registry()
    registry.add("n", two_jobs_free, None)
    with pytest.raises(RegistrationError, match=r"test_handlers.two_jobs_free; each name has one"):
        registry.add("n", lambda: None, None)


def two_jobs_free() -> None: ...


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), True, "5", timedelta(0)])
def test_a_timeout_that_is_none_is_refused(timeout: Any) -> None:
    with pytest.raises(RegistrationError, match="timeout"):
        registered(lambda: None, timeout=timeout)


def test_a_timeout_may_be_seconds_or_a_timedelta() -> None:
    assert registered(lambda: None, timeout=1.5).timeout_s == registered(lambda: None, timeout=timedelta(seconds=1.5)).timeout_s == 1.5


def test_a_decorator_without_a_name_is_refused_with_the_right_form() -> None:
    worker = Worker(queues=["q"])
    with pytest.raises(RegistrationError, match=r'@worker.handler\("thumbnail"\)'):
        worker.handler(lambda: None)  # type: ignore[arg-type]  # the point of the test


def test_a_decorated_function_stays_what_it_was() -> None:
    worker = Worker(queues=["q"])
    assert worker.handler("n")(two_jobs_free) is two_jobs_free
    assert worker.on_started(print) is print


@pytest.mark.parametrize("hook", ["on_started", "on_completed", "on_failed"])
def test_a_hook_with_the_wrong_arguments_is_refused(hook: str) -> None:
    worker = Worker(queues=["q"])
    with pytest.raises(RegistrationError, match="must take"):
        getattr(worker, hook)(lambda: None)
    with pytest.raises(RegistrationError, match="must be a function"):
        getattr(worker, hook)(7)


# --- workers ---


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"queues": "thumbnails"}, r"queues=\['thumbnails'\]"),
        ({"queues": []}, "1 to 100 queues"),
        ({"queues": [f"q{number}" for number in range(101)]}, "1 to 100 queues"),
        ({"queues": ["a", "a"]}, "named twice"),
        ({"queues": ["a b"]}, "cannot be the name of a queue"),
        ({"queues": [7]}, "cannot be the name of a queue"),
        ({"queues": 7}, "list of names"),
        ({"queues": {"a": 0}}, "the limit of queue 'a'"),
        ({"queues": {"a": True}}, "the limit of queue 'a'"),
        ({"queues": ["a"], "concurrency": 0}, "concurrency must be"),
        ({"queues": ["a"], "concurrency": 2.5}, "concurrency must be"),
        ({"queues": ["a"], "concurrency": 100_001}, "concurrency must be"),
        ({"queues": ["a"], "health": "8081"}, "health must be"),
        ({"queues": ["a"], "drain_grace": -1}, "drain_grace"),
        ({"queues": ["a"], "instance_id": "x" * 129}, "instance_id"),
        ({"queues": ["a"], "labels": {f"k{number}": "" for number in range(33)}}, "at most 32 labels"),
        ({"queues": ["a"], "labels": {"k": 7}}, "label 'k'"),
        ({"queues": ["a"], "labels": {"a key": "x"}}, r"keys of 1 to 63 of \[A-Za-z0-9\._/-\], got 'a key'"),
        ({"queues": ["a"], "labels": {"": "x"}}, "keys of 1 to 63"),
        ({"queues": ["a"], "labels": {"k": "é" * 65}}, "label 'k' must be a text of at most 128 bytes"),
        ({"queues": ["a"], "labels": {"k": "\udcff"}}, "label 'k' must be a text"),
        ({"queues": ["a"], "labels": 7}, "labels must be a mapping"),
        ({"queues": ["a"], "instance_id": "\udcff"}, "instance_id must be a text"),
        ({"queues": ["a"], "target": ""}, "names no broker"),
        ({"queues": ["a"], "target": "http://host:1"}, "has a scheme"),
        ({"queues": ["a"], "target": "host:port"}, "'host:port' with a port"),
        ({"queues": ["a"], "target": ["host:1", 7]}, "sequence of them"),
    ],
)
def test_a_worker_that_cannot_work_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(RegistrationError, match=says):
        Worker(options.pop("target", None), **options)


def test_the_defaults_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOBWIRE_TARGET", raising=False)
    options = Worker(queues=["a"]).options
    assert (options.targets, options.concurrency, options.drain_grace, options.health) == (("localhost:7410",), 5, timedelta(seconds=30), None)
    assert Worker(queues={"a": 2, "b": 10}).options.concurrency == 12
    assert Worker(queues={"a": 2, "b": 10}, concurrency=4).options.concurrency == 4
    monkeypatch.setenv("JOBWIRE_TARGET", "one:1, two:2")
    assert Worker(queues=["a"]).options.targets == ("one:1", "two:2")


async def test_a_worker_without_a_handler_does_not_start() -> None:
    with pytest.raises(RegistrationError, match="no handler"):
        await Worker(queues=["q"]).__aenter__()


async def test_stop_before_start_and_twice_does_no_harm() -> None:
    worker = Worker(queues=["q"])
    await worker.stop()
    await worker.stop()
