"""Pub/sub: one connection per broker for all channels. For speed only: whatever it loses, the pulse finds (RULES 2)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError, RedisError

from jobwire_broker.store.client import StoreClient

log = logging.getLogger(__name__)

Handler = Callable[[bytes | None], None]
RECONNECT_S = 0.25
#: With a call to the store after it, a watcher of a store that is away must hear of that within 2 s.
CONFIRM_S = 0.5
#: A connection that is silent for so long is sent a PING; one that leaves it without an answer for so long, while the store answers others, is lost.
SILENCE_S, PONG_S = 1.0, 0.25


class Listener:
    """Delivers the messages of each channel to its handler. After a connection was lost and made again, each handler is called with None."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client
        self._handlers: dict[str, Handler] = {}
        self._confirmed: dict[str, asyncio.Event] = {}
        self._pubsub: PubSub | None = None
        self._task: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._complained: set[str] = set()
        self._is_lost = False
        self._heard_at = 0.0

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop listening. Tolerates stop before start, and twice."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def add(self, channel: str, handler: Handler) -> None:
        """Listen to `channel`. Returns when the store has confirmed, or after CONFIRM_S without it: the pulse covers the rest."""
        if channel not in self._handlers:
            self._handlers[channel] = handler
            self._confirmed[channel] = asyncio.Event()
            self._wanted.set()
            if self._pubsub is not None:
                with contextlib.suppress(RedisError, OSError):
                    await self._pubsub.subscribe(channel)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONFIRM_S):
                await self._confirmed[channel].wait()

    async def remove(self, channel: str) -> None:
        """Listen to `channel` no more."""
        if self._handlers.pop(channel, None) is None:
            return
        del self._confirmed[channel]
        self._complained.discard(channel)
        if not self._handlers:
            self._wanted.clear()
        if self._pubsub is not None:
            with contextlib.suppress(RedisError, OSError):
                await self._pubsub.unsubscribe(channel)

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            connection = self._client.connect_for_messages()
            self._pubsub = connection.pubsub()
            try:
                await self._listen_until_lost(self._pubsub)
            except (RedisError, OSError) as error:
                self._note(error)
                self._client.suspect(error)
            finally:
                pubsub, self._pubsub = self._pubsub, None
                with contextlib.suppress(RedisError, OSError):
                    await pubsub.aclose()  # type: ignore[no-untyped-call]
                    await connection.aclose()
            for event in self._confirmed.values():
                event.clear()
            await asyncio.sleep(RECONNECT_S)

    def _note(self, error: Exception | None) -> None:
        """Say once that the connection is lost, and once that it is back."""
        if self._is_lost != (error is not None):
            self._is_lost = error is not None
            log.info("listener.lost error=%s" if error else "listener.back%s", error or "")

    async def _listen_until_lost(self, pubsub: PubSub) -> None:
        """Raises the error with which the connection was lost."""
        self._heard_at = asyncio.get_running_loop().time()
        tasks = [asyncio.create_task(self._listen(pubsub)), asyncio.create_task(self._find_silence(pubsub))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _listen(self, pubsub: PubSub) -> None:
        loop = asyncio.get_running_loop()
        await pubsub.subscribe(*self._handlers)
        while True:
            message = await pubsub.get_message(timeout=None)
            self._heard_at = loop.time()
            if message is None or message["channel"] is None:
                continue
            channel = message["channel"].decode()
            handler = self._handlers.get(channel)
            if handler is None:
                continue
            if message["type"] == "message":
                self._hand_over(channel, handler, message["data"])
            elif message["type"] == "subscribe":
                self._note(None)
                self._confirmed[channel].set()
                self._hand_over(channel, handler, None)

    def _hand_over(self, channel: str, handler: Handler, message: bytes | None) -> None:
        """Let a handler have a message. One that it can't take is as good as lost: the handler is told that, and all others go on."""
        try:
            handler(message)
        except Exception:
            if channel not in self._complained:
                self._complained.add(channel)
                log.exception("listener.bad_message channel=%s bytes=%r", channel, (message or b"")[:100])
            if message is not None:
                self._hand_over(channel, handler, None)

    async def _find_silence(self, pubsub: PubSub) -> None:
        """Raises ConnectionError when nothing comes any more although the connection seems to be open: a firewall that forgot it, a host that is gone."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SILENCE_S / 2)
            now = loop.time()
            # Of a store that is away, silence says nothing.
            if now - self._heard_at < SILENCE_S or not self._handlers or not self._client.available:
                continue
            if pubsub.connection is not None:
                await pubsub.ping()
            await asyncio.sleep(PONG_S)
            if self._heard_at < now and await self._client.is_answering() and self._heard_at < now:
                raise ConnectionError("nothing comes through it any more")
