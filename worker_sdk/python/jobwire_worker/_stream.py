"""Carries a session over gRPC, on a thread and an event loop of its own.

1. One task reads and one writes, with never a timeout around either: a timed-out write poisons the stream, and a timed-out read ends it. A watchdog, which the
   session's clock drives, cancels the call instead.
2. Each connection has a subchannel pool of its own: otherwise two channels to one name share a connection, and a reconnect leads back to the same broker.
3. HTTP/2 keepalive is off. Proxies answer its pings themselves, so it proves nothing; the frames of the protocol do.
4. The writer sends all that is ready as one frame. While a frame is on its way, the next one grows.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import secrets
import threading
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from jobwire.v1 import worker_service_pb2 as pb
from jobwire.v1 import worker_service_pb2_grpc as pb_grpc

from ._backoff import Backoff
from ._credentials import Bearer, Credentials
from ._effects import Cause, Close, Effect, Refused, Welcomed
from ._health import HealthServer
from ._job import Job
from ._mailbox import Mailbox
from ._poller import quiet_poller
from ._session import Session, SessionOptions
from ._status import Status, read_status
from ._targets import Targets

log = logging.getLogger("jobwire.worker")

MAX_RECEIVE_BYTES = 16 * 1024 * 1024
GOODBYE_TIME_S = 2.0
"""How long the last frame may take, and handlers to end after the grace."""
SHORTEST_TICK_S = 0.02
STEADY_S = 2.0
"""A stream that lasted this long was a success: the next backoff starts anew."""

_CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_send_message_length", MAX_RECEIVE_BYTES),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
]

_Call = grpc.aio.StreamStreamCall[pb.WorkRequest, pb.WorkResponse]


class Stream:
    """The thread, its loop and the session. Made by the worker's start, and to be started; what it calls back runs on its own thread."""

    def __init__(
        self,
        options: SessionOptions,
        targets: Targets,
        deliver: Callable[[list[Effect]], None],
        health: tuple[str, int] | None,
        credentials: Credentials | None = None,
    ) -> None:
        self.started: concurrent.futures.Future[None] = concurrent.futures.Future()
        """Done when the health port listens; fails when it is taken."""
        self.closed: concurrent.futures.Future[None] = concurrent.futures.Future()
        """Done when the stream has ended for good; fails when it crashed."""
        self._loop = asyncio.new_event_loop()
        self.outbox: Mailbox[Any] = Mailbox(self._loop, self._take)
        self.health_port: int | None = None
        self._targets = targets
        self._bearer = Bearer(credentials or Credentials())
        self._deliver = deliver
        self._session = Session(options, new_session_id)
        self._health = HealthServer(*health, self._probe) if health is not None else None
        self._backoff = Backoff()
        self._thread = threading.Thread(target=self._run, name="jobwire-stream", daemon=True)
        self._call: _Call | None = None
        self._address = ""
        self._close: Close | None = None
        self._welcomed_at: float | None = None
        self._last_failure = ""
        self._tick: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._changed = asyncio.Event()
        self._goodbye_sent = asyncio.Event()
        self._goodbye_begun = False
        self._ending = False
        self._drain_task: asyncio.Task[None] | None = None

    # --- from any thread ---

    def start(self) -> None:
        """Start the thread. Wait for `started`."""
        self._thread.start()

    def drain(self, grace_s: float) -> None:
        """Take nothing more, let what runs end within `grace_s`, say goodbye and end. A second call changes nothing."""
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._start_draining, grace_s)

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the thread."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    # --- the thread ---

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._main())
        except BaseException as error:
            if self.started.done():
                log.critical("worker.crashed", exc_info=True)
                self.closed.set_exception(error)
            else:
                self.started.set_exception(error)
        else:
            self.closed.set_result(None)

    async def _main(self) -> None:
        quiet_poller(self._loop)
        try:
            if self._health is not None:
                self.health_port = await self._health.start()
                log.info("worker.health port=%d", self.health_port)
            self.started.set_result(None)
            await self._serve()
        finally:
            if self._health is not None:
                self._health.stop()
            if self._tick is not None:
                self._tick.cancel()

    async def _serve(self) -> None:
        while not self._ending:
            await self._targets.refresh()
            address, wait_s = self._targets.next(self._loop.time())
            await self._pause(self._bounded(wait_s))
            if self._ending:
                break
            status = await self._connection(address)
            if self._goodbye_begun and status is not None and status.code is grpc.StatusCode.OK:
                self._goodbye_sent.set()  # the broker has read it, and was quicker than our own write's end
            if self._ending or self._goodbye_sent.is_set():
                break
            await self._after(address, status)
        if self._drain_task is not None:
            await self._drain_task

    async def _after(self, address: str, status: Status | None) -> None:
        """Say why the stream ended, and wait before the next try."""
        now = self._loop.time()
        close = self._close
        lasted_s = 0.0 if self._welcomed_at is None else now - self._welcomed_at
        if lasted_s >= STEADY_S:
            self._backoff.reset()
        retry_after_s = close.retry_after_s if close is not None else status.retry_after_s if status is not None else 0.0
        if retry_after_s > 0:
            self._targets.avoid(address, now + retry_after_s)
        elsewhere = close is not None and close.cause in (Cause.GO_AWAY, Cause.MOVE) and self._targets.others(now)
        wait_s = 0.0 if elsewhere else self._bounded(self._next_wait_s())
        self._log_end(address, status, wait_s)
        await self._pause(wait_s)

    def _next_wait_s(self) -> float:
        session = self._session
        return self._backoff.next_wait_s(addresses=self._targets.count, holds_jobs=session.held > 0, session_time_s=session.session_time_s)

    def _bounded(self, wait_s: float) -> float:
        """While it holds jobs, at most a third of the session time, whatever a broker asked for: their leases run out."""
        return min(wait_s, self._session.session_time_s / 3) if self._session.held else wait_s

    async def _pause(self, seconds: float) -> None:
        """Sleep, or until the worker ends."""
        if seconds <= 0 or self._ending:
            return
        deadline = self._loop.time() + seconds
        while not self._ending and (left_s := deadline - self._loop.time()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._next_change()

    def _log_end(self, address: str, status: Status | None, wait_s: float) -> None:
        """Loud once, quiet while the same goes on."""
        if self._close is not None:
            text, level = self._close.cause.value, logging.INFO
        elif status is None or status.code is grpc.StatusCode.OK:
            text, level = "closed", logging.INFO
        else:
            text, level = f"{status.code.name} {status.reason} {status.message}", logging.ERROR if status.our_fault else logging.WARNING
        if text == self._last_failure:
            level = logging.DEBUG
        self._last_failure = text
        log.log(level, "worker.disconnected broker=%s cause=%r held=%d retry_in=%.2fs", address, text, self._session.held, wait_s)

    # --- one connection ---

    async def _connection(self, address: str) -> Status | None:
        """From connecting to the end of the stream. The status that the broker gave, or None when we ended it."""
        session = self._session
        self._address, self._close, self._welcomed_at = address, None, None
        async with self._bearer.transport().channel(address, _CHANNEL_OPTIONS, self._targets.host_of(address)) as channel:
            stub: pb_grpc.WorkerServiceAsyncStub = pb_grpc.WorkerServiceStub(channel)
            self._call = call = stub.Work(metadata=self._bearer.metadata())
            session.opened(self._loop.time())
            self._schedule_tick()
            writer = self._loop.create_task(self._write(call))
            try:
                await self._read(call)
                status = await _status_of(call) if self._close is None else None
            except grpc.aio.AioRpcError as error:
                status = read_status(error.code(), error.details(), _pairs(error.trailing_metadata()))
            except asyncio.CancelledError:  # the watchdog cancelled the call
                status = None
            finally:
                self._call = None
                call.cancel()
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)
        if status is not None and status.superseded:
            log.warning("worker.superseded session=%s: another stream took it over; a new session begins", session.id.hex())
            self._apply(session.superseded())
        session.closed()
        self._note_change()
        return status

    async def _read(self, call: _Call) -> None:
        session = self._session
        while True:
            frame = await call.read()
            if not isinstance(frame, pb.WorkResponse):  # the end
                return
            effects = session.received(frame, self._loop.time())
            if effects:
                self._apply(effects)
            self._note_change()

    async def _write(self, call: _Call) -> None:
        session, loop, writable = self._session, self._loop, self._writable
        try:
            while True:
                frame = session.next_frame(loop.time())
                if frame is None:
                    writable.clear()
                    await writable.wait()
                    continue
                self._goodbye_begun = frame.HasField("goodbye")
                await call.write(frame)
                if self._goodbye_begun:
                    await call.done_writing()
                    self._goodbye_sent.set()
                    return
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # the call has ended, and the reader says why
        except Exception:
            log.exception("worker.write_failed broker=%s", self._address)
            call.cancel()

    def _apply(self, effects: list[Effect]) -> None:
        """What concerns the connection is done here; the rest goes to the handlers' loop as one batch."""
        for effect in effects:
            if isinstance(effect, Close):
                self._close = effect
                if self._call is not None:
                    self._call.cancel()
            elif isinstance(effect, Welcomed):
                self._welcomed_at = self._loop.time()
                self._last_failure = ""
                log.info(
                    "worker.connected broker=%s broker_id=%s epoch=%d held=%d lost=%d",
                    self._address,
                    effect.broker_id,
                    self._session.epoch,
                    self._session.held,
                    effect.lost,
                )
            elif isinstance(effect, Refused):
                lease = effect.lease
                # Whoever gave way to a cancel did what it was told.
                level = logging.DEBUG if effect.verdict == pb.VERDICT_CANCELLED else logging.WARNING
                log.log(level, "job.finish_refused job=queues/%s/jobs/%s verdict=%s", lease.queue, lease.id, pb.Verdict.Name(effect.verdict))
        self._deliver(effects)

    def _take(self, items: list[Any]) -> None:
        """What handlers sent: jobs with reports, and ends."""
        session = self._session
        for item in items:
            if isinstance(item, tuple):
                lease, outcome, freed = item
                if outcome is not None:
                    session.ended(lease, outcome)
                if freed:
                    session.freed(lease)
            elif isinstance(item, Job):
                session.reported(item._lease, *item._take_reports())
        self._note_change()

    # --- time and change ---

    def _note_change(self) -> None:
        """Something happened that may let the writer write, the watchdog look later, or a drain end."""
        self._writable.set()
        self._changed.set()
        self._schedule_tick()

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _schedule_tick(self) -> None:
        now = self._loop.time()
        moment = max(self._session.next_tick(now), now + SHORTEST_TICK_S)
        if self._tick is not None:
            if self._tick.when() <= moment and not self._tick.cancelled():
                return
            self._tick.cancel()
        self._tick = self._loop.call_at(moment, self._on_tick)

    def _on_tick(self) -> None:
        self._tick = None
        now = self._loop.time()
        effects = self._session.ticked(now, other_brokers=self._targets.others(now))
        if effects:
            self._apply(effects)
        self._note_change()

    # --- the end ---

    def _start_draining(self, grace_s: float) -> None:
        if self._drain_task is None:
            self._drain_task = self._loop.create_task(self._drain(grace_s))

    async def _drain(self, grace_s: float) -> None:
        """Take nothing more → let what runs end → tell the rest to end → say goodbye → close."""
        session = self._session
        log.info("worker.draining running=%d grace=%.0fs", session.running, grace_s)
        session.drain()
        self._note_change()
        if not await self._idle_within(grace_s):
            log.warning("worker.grace_over running=%d: their jobs go back", session.running)
            self._apply(session.give_up())
            await self._idle_within(GOODBYE_TIME_S)
        session.say_goodbye()
        self._note_change()
        if session.connected:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_TIME_S):
                    await self._goodbye_sent.wait()
                    while self._call is not None:  # the broker ends the stream when it has read the goodbye
                        await self._next_change()
        self._ending = True
        if self._call is not None:
            self._call.cancel()
        self._note_change()
        log.info("worker.ended held=%d", session.held)

    async def _idle_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._session.idle:
                    await self._next_change()
        return self._session.idle

    # --- health ---

    def _probe(self) -> dict[str, Any]:
        session, now = self._session, self._loop.time()
        return {
            "status": "ok" if session.alive(now) else "down",
            "broker": self._address if session.connected else None,
            "running": session.running,
            "held": session.held,
            "draining": session.draining,
            "leaseUncertain": session.uncertain,
        }


def new_session_id() -> bytes:
    """16 random bytes."""
    return secrets.token_bytes(16)


async def _status_of(call: _Call) -> Status:
    return read_status(await call.code(), await call.details(), _pairs(await call.trailing_metadata()))


def _pairs(metadata: Any) -> list[tuple[str, str | bytes]]:
    return [(key, value) for key, value in metadata or ()]
