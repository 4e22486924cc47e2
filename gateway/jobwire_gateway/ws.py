"""The same frames over a WebSocket: topics come and go while it is open.

The client sends JSON, the gateway answers each topic as an event stream would, one frame in each message, without ids:

    {"type": "subscribe", "topics": ["queues/q/jobs/7", "queues/q"], "after": {"queues/q/jobs/7": "1764…"}}
    {"type": "unsubscribe", "topics": ["queues/q"]}

`after` says, by topic, the revision that the client has: with `.end` behind it where it has the end, and then the answer is `unsubscribed`, as it is to each
topic of an `unsubscribe`, followed or not. A topic that cannot be had is answered by an `error` with its name, and the others go on. A message that makes no
sense ends the connection, for a program that sends one will send the next; so does asking without reading the answers.

Why a connection ends is said by its close code:

    1003, 1007, 1008, 1009   the client broke a rule: no text, no JSON, no such message or too many, too large. To come back is of no use
    1012                     the gateway ends: come back after `reconnectMs` of the `drain` before it
    1013                     too many connections: come back after some seconds, with jitter
    4401                     the token or key has ended: come back with another
"""

import asyncio
import functools
from collections.abc import Callable
from enum import IntEnum

from starlette.types import Receive, Scope, Send

from jobwire_gateway import frames
from jobwire_gateway.allowance import Allowance
from jobwire_gateway.callers import allow_watch
from jobwire_gateway.cursors import cursor_of
from jobwire_gateway.mailbox import GATEWAY
from jobwire_gateway.many import Subscriptions
from jobwire_gateway.problems import Problem
from jobwire_gateway.refusals import Refusals
from jobwire_gateway.requests import invalid, query_of, strict_json
from jobwire_gateway.sse import no_room
from jobwire_gateway.streams import Streams
from jobwire_gateway.topic_names import topic_name
from jobwire_gateway.topics import Topics

PROTOCOL = "jobwire.v1"
"""The subprotocol. One who names others, and not this, is refused."""

_MESSAGES_PER_S = 20.0
_MESSAGES_AT_ONCE = 100


class Close(IntEnum):
    """Why the gateway closes."""

    NOT_TEXT = 1003
    NOT_JSON = 1007
    BROKEN_RULE = 1008
    TOO_LARGE = 1009
    GOING_AWAY = 1012
    TOO_MANY = 1013
    CREDENTIALS_ENDED = 4401


class _Refusal(Exception):
    """Raised when the client broke a rule."""

    def __init__(self, code: Close, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Socket:
    """One open connection."""

    __slots__ = ("_allowance", "_close", "_limit", "_most_waiting", "_note", "_pump", "_reason", "_send", "_subscriptions", "_topics", "last_write")

    def __init__(self, topics: Topics, send: Send, note: Callable[[str], None], max_topics: int) -> None:
        self.last_write = asyncio.get_running_loop().time()
        self._send = send
        self._topics = topics
        self._note = note
        self._limit = max_topics
        self._most_waiting = 2 * topics.bounds.max_frames + 3 * max_topics
        self._pump: asyncio.Task[None] | None = None
        self._close, self._reason = Close.GOING_AWAY, "the gateway ends"
        self._allowance = Allowance(_MESSAGES_PER_S, _MESSAGES_AT_ONCE)
        self._subscriptions = Subscriptions(topics, self._wake)

    async def listen(self, receive: Receive) -> None:
        """Take messages until the connection ends."""
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                if message.get("code") in (Close.BROKEN_RULE, Close.TOO_LARGE):
                    # The protocol itself has closed (ws_protocol.py).
                    self._note(Close(message["code"]).name)
                return
            if self._subscriptions.mailbox.ended:
                continue
            try:
                self._take(message.get("text"))
            except _Refusal as refusal:
                self._note(refusal.code.name)
                await self._send({"type": "websocket.close", "code": refusal.code, "reason": str(refusal)})
                return

    async def leave(self) -> None:
        """Watch nothing any more, and wait until nothing is being written."""
        self._subscriptions.leave()
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait((self._pump,))

    def heartbeat(self) -> None:
        """Pings keep the connection honest, and the server sends them by itself."""

    def drain(self, reconnect_ms: int) -> None:
        self._subscriptions.mailbox.put(GATEWAY, frames.drain(reconnect_ms))
        self._subscriptions.mailbox.end()

    def say(self, frame: frames.Frame) -> None:
        self._subscriptions.mailbox.put(GATEWAY, frame)

    def expire(self, frame: frames.Frame) -> None:
        self.say(frame)
        self._close, self._reason = Close.CREDENTIALS_ENDED, "the credentials have ended"
        self._subscriptions.mailbox.end()

    def close(self) -> None:
        self._subscriptions.mailbox.end()

    def _take(self, text: str | None) -> None:
        if not self._allowance.take(asyncio.get_running_loop().time()):
            raise _Refusal(Close.BROKEN_RULE, "too many messages")
        if text is None:
            raise _Refusal(Close.NOT_TEXT, "messages are text")
        try:
            message = strict_json(text)
        except (ValueError, RecursionError):
            raise _Refusal(Close.NOT_JSON, "messages are JSON") from None
        match message:
            case {"type": "subscribe" | "unsubscribe", "topics": list(names)} if len(names) > self._limit:
                raise _Refusal(Close.BROKEN_RULE, f"at most {self._limit} topics in one message")
            case {"type": "subscribe", "topics": list(names), **rest} if rest.keys() <= {"after"} and isinstance(after := rest.get("after", {}), dict):
                for name in names:
                    self._check_room()
                    self._subscribe(name, after)
            case {"type": "unsubscribe", "topics": list(names), **rest} if not rest:
                for name in names:
                    self._check_room()
                    self._unsubscribe(name)
            case _:
                raise _Refusal(Close.BROKEN_RULE, "a message is subscribe or unsubscribe, with topics")

    def _check_room(self) -> None:
        """Nothing is left out of the answers, so there are bounds to what may be asked while they are not read."""
        if len(self._subscriptions.mailbox) > self._most_waiting:
            raise _Refusal(Close.BROKEN_RULE, "too much is asked and not read")

    def _subscribe(self, name: object, after: dict[str, object]) -> None:
        try:
            topic = topic_name(name if isinstance(name, str) else repr(name))
            allow_watch([topic])
            if topic not in self._subscriptions.watches and len(self._subscriptions.watches) >= self._limit:
                raise invalid("topic", f"is one too many; at most {self._limit} at once")
            if topic not in self._subscriptions.watches and (refusal := self._topics.refusal([topic])):
                raise no_room(refusal)
        except Problem as problem:
            reason = problem.reason if problem.status in (403, 503) else "INVALID_TOPIC"
            if problem.status in (403, 503):
                self._note(reason)
            self._refuse(name, reason, problem)
            return
        cursor = cursor_of(str(after.get(topic, "")))
        if cursor is None or not cursor.end:
            self._subscriptions.add(topic, cursor)
        elif topic not in self._subscriptions.watches:
            # Nothing comes of it any more, and silence would look like a topic that is quiet.
            self._subscriptions.mailbox.put(topic, frames.unsubscribed(topic))

    def _unsubscribe(self, name: object) -> None:
        try:
            topic = topic_name(name if isinstance(name, str) else repr(name))
        except Problem as problem:
            self._refuse(name, "INVALID_TOPIC", problem)
            return
        self._subscriptions.remove(topic)
        # Also of one that is not followed: its job may have ended meanwhile, and the client waits for the answer.
        self._subscriptions.mailbox.put(topic, frames.unsubscribed(topic))

    def _refuse(self, name: object, reason: str, problem: Problem) -> None:
        self._subscriptions.mailbox.put(GATEWAY, frames.error(str(name)[:200], reason, problem.detail))

    def _wake(self) -> None:
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        mailbox = self._subscriptions.mailbox
        try:
            while taken := mailbox.take():
                # All that waits in one write, as messages that are the same for all who get them: `ws_protocol.py` takes them as they are.
                await self._send({"type": "websocket.send", "messages": b"".join([frame.message for frame in taken])})
                self.last_write = asyncio.get_running_loop().time()
            if mailbox.ended:
                await self._send({"type": "websocket.close", "code": self._close, "reason": self._reason})
        except OSError:
            # The connection is gone; `listen` hears of it as well.
            mailbox.end()
        finally:
            self._pump = None


class SocketsEndpoint:
    """The ASGI endpoint."""

    def __init__(self, topics: Topics, streams: Streams, refusals: Refusals, max_topics: int) -> None:
        self._topics = topics
        self._streams = streams
        self._refusals = refusals
        self._max_topics = max_topics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, or refuse it with an HTTP answer."""
        assert (await receive())["type"] == "websocket.connect"
        try:
            protocol = self._check(scope)
        except Problem as problem:
            await problem.response(scope["path"])(scope, receive, send)
            return
        await send({"type": "websocket.accept", "subprotocol": protocol})
        if self._streams.refusal():
            await send({"type": "websocket.close", "code": Close.TOO_MANY, "reason": "too many connections; come back later"})
            return
        socket = Socket(self._topics, send, functools.partial(self._refusals.note, scope=scope), self._max_topics)
        self._streams.add(socket)
        try:
            await socket.listen(receive)
        finally:
            self._streams.remove(socket)
            await socket.leave()

    @staticmethod
    def _check(scope: Scope) -> str | None:
        """Give the subprotocol. Refuse a program that speaks another."""
        query_of(scope, ())
        offered = scope["subprotocols"]
        if offered and PROTOCOL not in offered:
            raise Problem(400, f"The subprotocol is {PROTOCOL}.", reason="UNKNOWN_SUBPROTOCOL")
        return PROTOCOL if offered else None
