"""`Worker`: what it takes, which functions run it, and how it starts and ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import metadata
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

from ._credentials import Credentials
from ._effects import Effect
from ._handlers import MAX_QUEUES, Registry, check_queue
from ._health import parse_health
from ._hooks import Hooks
from ._mailbox import Mailbox
from ._poller import quiet_poller
from ._reserves import QueueClass, Reserved, check_reserved
from ._runner import Runner
from ._session import SessionOptions
from ._stream import Stream
from ._targets import Targets, parse_targets
from .errors import RegistrationError

log = logging.getLogger("jobwire.worker")

DEFAULT_CONCURRENCY = 5
MAX_CONCURRENCY = 10_000
DEFAULT_GRACE = timedelta(seconds=30)
MAX_LABELS = 32
_LABEL_KEY = re.compile(r"[A-Za-z0-9._/-]{1,63}")
_LABEL_VALUE_BYTES = 128
_LABEL_LIMIT_CHARS = 128
_LEFTOVERS_TIME_S = 1.0
_ENDED_MARGIN_S = 10.0

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerOptions:
    """What a worker was made with, checked."""

    targets: tuple[str, ...]
    """The brokers' addresses. Default: `JOBWIRE_TARGET`, else localhost:7410."""
    queues: tuple[str, ...]
    """The queues that it takes jobs from, 1 to 100."""
    queue_limits: Mapping[str, int] = field(default_factory=dict)
    """How many jobs of one queue run at once, for queues with a limit of their own."""
    concurrency: int = DEFAULT_CONCURRENCY
    """How many jobs run at once over all queues. Default 5, or the sum of the queues' own limits."""
    instance_id: str = ""
    """A label for people. Empty: host and process id, as they are when the worker starts."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels, for jobs that ask for them. At most 32."""
    reserved: Reserved = field(default_factory=dict)
    """Slots of `concurrency` that are kept for a queue, or for all queues of a class: other queues do not get them, also while they are free."""
    drain_grace: timedelta = DEFAULT_GRACE
    """How long running jobs may take to end when the worker is stopped. Default 30 s; 0 hands them back at once."""
    health: tuple[str, int] | None = None
    """Where to serve the health port. Default: nowhere."""
    credentials: Credentials = field(default_factory=Credentials)
    """The key to send, and what TLS needs. Default: the variables that `Credentials.from_environment` names."""


class Worker:
    """Runs jobs from queues.

    `target` is one broker's `host:port`, a comma list or a sequence of them, or a name that resolves to many; the default is `JOBWIRE_TARGET`, else
    localhost:7410. `queues` is a list of names, or a mapping of names to how many of their jobs run at once. `concurrency` bounds all queues together:
    default 5, or with a mapping the sum of its limits. `reserved` keeps some of it for a queue or a class: with `reserved={"password-reset": 2}` a worker full
    of exports still starts a password reset at once. `health` is a `host:port` that answers HTTP with 200, or with 503 while the stream is dead.

    Raises RegistrationError for values that cannot work.

        worker = Worker(queues=["thumbnails"])

        @worker.handler("thumbnail", timeout=60)
        async def thumbnail(job: Job, request: Request) -> dict: ...

        worker.run()
    """

    def __init__(
        self,
        target: str | Sequence[str] | None = None,
        *,
        queues: Sequence[str] | Mapping[str, int],
        credentials: Credentials | None = None,
        concurrency: int | None = None,
        instance_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        reserved: Mapping[str, int] | Mapping[QueueClass, int] | Reserved | None = None,
        drain_grace: timedelta | float = DEFAULT_GRACE,
        health: str | None = None,
    ) -> None:
        names, limits = _queues(queues)
        slots = _concurrency(concurrency, limits)
        self._options = WorkerOptions(
            targets=parse_targets(target),
            queues=names,
            queue_limits=limits,
            concurrency=slots,
            instance_id=_label(instance_id or "", "instance_id"),
            labels=_labels({} if labels is None else labels),
            reserved=check_reserved(reserved or {}, names, slots),
            drain_grace=_grace(drain_grace),
            health=None if health is None else parse_health(health),
            credentials=_credentials(credentials),
        )
        self._registry = Registry()
        self._hooks = Hooks()
        self._stream: Stream | None = None
        self._runner: Runner | None = None
        self._pid = 0
        self._undo_quiet: Callable[[], None] = _nothing

    @property
    def options(self) -> WorkerOptions:
        """What it was made with."""
        return self._options

    @property
    def health_port(self) -> int | None:
        """The port that the health check listens on, while the worker runs. For port 0."""
        return self._stream.health_port if self._stream is not None else None

    @property
    def _running(self) -> bool:
        """Whether it was started in this process. A forked copy has no stream of its own; when it is started it makes one, with a session of its own."""
        return self._stream is not None and self._pid == os.getpid()

    # --- registration ---

    def handler(self, name: str, *, timeout: timedelta | float | None = None) -> Callable[[F], F]:
        """Register the decorated function as the handler of jobs of that name; `"*"` takes all names that have none.

        The function is `async def`, or a plain function, which runs in a thread. It takes `(job: Job)`, `(payload: T)`, both or nothing; `T` says what the
        payload is made into. What it returns is the job's result. `timeout` is per attempt, a timedelta or seconds; an attempt over it fails as `Timeout`
        and may be retried. Default: none.

        Raises RegistrationError when the function cannot be a handler, or the name has one.
        """

        def register(function: F) -> F:
            self._refuse_while_running()
            self._registry.add(name, function, timeout)
            return function

        if callable(name):
            self._registry.add(name, name, timeout)  # refuses it, with a sentence
        return register

    def on_started(self, function: F) -> F:
        """Register `function(job)`, called before each handler. A plain hook must be quick; a coroutine function is awaited."""
        self._refuse_while_running()
        Hooks.add(self._hooks.started, function, "(job)", object())
        return function

    def on_completed(self, function: F) -> F:
        """Register `function(job, result)`, called when a handler has returned, before the broker knows of it."""
        self._refuse_while_running()
        Hooks.add(self._hooks.completed, function, "(job, result)", object(), object())
        return function

    def on_failed(self, function: F) -> F:
        """Register `function(job, error, *, final)`, called when an attempt failed, before the broker knows of it.

        `final` says whether this was the last one as far as the worker can know: the error is permanent by its class, or the attempts are used up. The broker
        may end a job earlier: by `permanent_errors` of the job or its queue, by its `total_timeout`, or since it was cancelled; then `final` was False. Who
        must hear of each end watches the job.

        Not called for snoozes, nor for handlers that gave up because they were told to.
        """
        self._refuse_while_running()
        Hooks.add(self._hooks.failed, function, "(job, error, *, final)", object(), object(), final=True)
        return function

    def _refuse_while_running(self) -> None:
        if self._running:
            raise RegistrationError("the worker runs already; register handlers and hooks before it starts")

    # --- running ---

    def run(self) -> int:
        """Run until SIGTERM or SIGINT, and return 0.

        The signal drains: what runs may end within the grace, and what did not start is handed back. A second signal ends the process at once. To be called
        in the main thread, where no event loop runs; elsewhere use `async with worker`.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("worker.run() must be called in the main thread, because signals arrive there; use `async with worker` elsewhere")
        loop = asyncio.new_event_loop()
        try:
            asyncio.set_event_loop(loop)
            loop.run_until_complete(self._run_until_signalled(loop))
            _end_leftovers(loop)
        finally:
            asyncio.set_event_loop(None)
            loop.close()
        return 0

    async def _run_until_signalled(self, loop: asyncio.AbstractEventLoop) -> None:
        stop = asyncio.Event()
        with _signals(lambda: self._on_signal(loop, stop)):
            await self._start()
            stream = self._stream
            assert stream is not None
            closed = asyncio.wrap_future(stream.closed)
            stopping = loop.create_task(stop.wait())
            await asyncio.wait((asyncio.ensure_future(closed), stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            try:
                await closed  # raises if the stream crashed
            finally:
                self._ended()

    def _on_signal(self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
        """In a signal handler, between any two steps of the main thread. It works while a handler blocks the loop."""
        self._begin_drain()
        loop.call_soon_threadsafe(stop.set)

    async def __aenter__(self) -> Self:
        """Start the worker inside another program. `async def` handlers run on this event loop. Raises HealthPortError."""
        await self._start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def wait_connected(self) -> None:
        """Return when a broker has welcomed the worker for the first time. Raises RuntimeError when it was not started."""
        if self._runner is None:
            raise RuntimeError("the worker was not started; use `async with worker`")
        await self._runner.connected.wait()

    async def stop(self) -> None:
        """Drain and end, as at the end of `async with`. May be called before the start, and twice."""
        stream = self._stream
        if stream is None:
            return
        self._begin_drain()
        try:
            await asyncio.shield(asyncio.wrap_future(stream.closed))
        finally:
            self._ended()

    async def _start(self) -> None:
        if self._running:
            raise RuntimeError("the worker runs already")
        if not len(self._registry):
            raise RegistrationError('the worker has no handler; register one with @worker.handler("name")')
        loop = asyncio.get_running_loop()
        inbox: Mailbox[list[Effect]] = Mailbox(loop, self._take)
        options = self._options
        self._pid = os.getpid()
        self._stream = stream = Stream(_session_options(options), Targets(options.targets), inbox.put, options.health, options.credentials)
        # Before the stream starts: it may deliver before this loop turns again.
        self._runner = Runner(loop, self._registry, self._hooks, stream.outbox, options.concurrency)
        self._undo_quiet = quiet_poller(loop)
        stream.start()
        try:
            await asyncio.shield(asyncio.wrap_future(stream.started))
        except BaseException:  # the port is taken, or nobody waits for the start any more
            self._runner.draining = True
            stream.drain(0)
            self._ended()
            raise

    def _take(self, batches: list[list[Effect]]) -> None:
        if self._runner is not None:
            for effects in batches:
                self._runner.take(effects)

    def _begin_drain(self) -> None:
        if self._runner is not None:
            self._runner.draining = True
        if self._stream is not None:
            self._stream.drain(self._options.drain_grace.total_seconds())

    def _ended(self) -> None:
        if self._runner is not None:
            self._runner.stop()
        self._undo_quiet()
        self._stream = self._runner = None


def _nothing() -> None: ...


def _session_options(options: WorkerOptions) -> SessionOptions:
    return SessionOptions(
        queues=options.queues,
        concurrency=options.concurrency,
        queue_limits=options.queue_limits,
        instance_id=options.instance_id or f"{socket.gethostname()}-{os.getpid()}"[:_LABEL_LIMIT_CHARS],
        sdk=_sdk(),
        labels=options.labels,
        reserved=options.reserved,
    )


def _sdk() -> str:
    try:
        return f"jobwire-python/{metadata.version('jobwire')}"
    except metadata.PackageNotFoundError:
        return "jobwire-python"


@contextlib.contextmanager
def _signals(drain: Callable[[], None]) -> Iterator[None]:
    """The first SIGTERM or SIGINT drains, the second ends the process with the signal's usual exit code."""
    seen = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        if seen > 1:
            os._exit(128 + number)
        drain()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_leftovers(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what still runs and give it a second: a handler that swallows its cancel must not keep the process."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=_LEFTOVERS_TIME_S))
    loop.run_until_complete(loop.shutdown_asyncgens())


# --- checking ---


def _credentials(given: Credentials | None) -> Credentials:
    try:
        return Credentials.from_environment() if given is None else given
    except ValueError as error:
        raise RegistrationError(str(error)) from None


def _queues(queues: object) -> tuple[tuple[str, ...], dict[str, int]]:
    if isinstance(queues, str):
        raise RegistrationError(f"queues must be a list of names or a mapping of names to limits; for one queue write queues=[{queues!r}]")
    if not isinstance(queues, Sequence | Mapping | set | frozenset):
        raise RegistrationError(f"queues must be a list of names or a mapping of names to limits, got {queues!r}")
    names = tuple(check_queue(name) for name in queues)
    if not 1 <= len(names) <= MAX_QUEUES:
        raise RegistrationError(f"a worker takes jobs from 1 to {MAX_QUEUES} queues, got {len(names)}")
    if len(set(names)) < len(names):
        raise RegistrationError(f"a queue is named twice in {list(names)}")
    limits = dict(queues) if isinstance(queues, Mapping) else {}
    for name, limit in limits.items():
        _check_limit(limit, f"the limit of queue {name!r}")
    return names, limits


def _concurrency(concurrency: object, limits: Mapping[str, int]) -> int:
    if concurrency is None:
        concurrency = min(MAX_CONCURRENCY, sum(limits.values())) if limits else DEFAULT_CONCURRENCY
    return _check_limit(concurrency, "concurrency")


def _check_limit(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_CONCURRENCY:
        raise RegistrationError(f"{what} must be a whole number from 1 to {MAX_CONCURRENCY}, got {value!r}")
    return value


def _label(text: object, what: str) -> str:
    if not isinstance(text, str) or len(text) > _LABEL_LIMIT_CHARS or not _is_utf8(text):
        raise RegistrationError(f"{what} must be a text of at most {_LABEL_LIMIT_CHARS} characters, got {text!r}")
    return text


def _labels(labels: object) -> dict[str, str]:
    if not isinstance(labels, Mapping):
        raise RegistrationError(f"labels must be a mapping of texts to texts, got {labels!r}")
    if len(labels) > MAX_LABELS:
        raise RegistrationError(f"a worker has at most {MAX_LABELS} labels, got {len(labels)}")
    for key, value in labels.items():
        if not isinstance(key, str) or not _LABEL_KEY.fullmatch(key):
            raise RegistrationError(f"labels must have keys of 1 to 63 of [A-Za-z0-9._/-], got {key!r}")
        if not isinstance(value, str) or not _is_utf8(value) or len(value.encode()) > _LABEL_VALUE_BYTES:
            raise RegistrationError(f"label {key!r} must be a text of at most {_LABEL_VALUE_BYTES} bytes, got {value!r}")
    return dict(labels)


def _is_utf8(text: str) -> bool:
    """What is not, such as bytes of the environment that Python could not decode, cannot be sent."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _grace(grace: timedelta | float) -> timedelta:
    seconds = grace.total_seconds() if isinstance(grace, timedelta) else grace
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 86_400:
        raise RegistrationError(f"drain_grace must be a timedelta or seconds from 0 to a day, got {grace!r}")
    return timedelta(seconds=seconds)
