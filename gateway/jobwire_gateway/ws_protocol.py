"""uvicorn's WebSocket protocol with the bounds that it lacks.

A handshake that can't be read, a peer that does not read, one whose message never ends, and one that sends nothing but pings would each hold the connection,
and memory with it. Pings of our own, every 20 s, find a peer that is gone.
"""

import asyncio
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, cast

from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State

from jobwire_gateway.allowance import Allowance
from jobwire_gateway.protocol import STALL_S

MAX_MESSAGE_BYTES = 64 * 1024
PING_S = 20.0
"""How often we ping, and how long the answer may take."""

MESSAGE_S = 10.0
"""A message in parts that takes longer is given up."""

_PINGS_PER_S = 5.0
_PINGS_AT_ONCE = 50


class GatewayWebSocket(WebSocketsSansIOProtocol):
    """One connection. `note`, that hears of handshakes that are refused here, is set on a subclass by `noting`."""

    note: Callable[[str, str], None] | None = None

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._stall_timer: asyncio.TimerHandle | None = None
        self._message_timer: asyncio.TimerHandle | None = None
        self._pings = Allowance(_PINGS_PER_S, _PINGS_AT_ONCE)

    @property
    def stalled(self) -> bool:
        """Whether it waits for its reader."""
        return not self.writable.is_set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_message()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            # It could not even be read. uvicorn would leave the connection open, and nobody would ever end it.
            self._refuse(self.conn.reject(HTTPStatus.BAD_REQUEST, "This handshake has a body, more than 128 headers, or a line of more than 8 KiB.\n"))

    def handle_connect(self, event: Request) -> None:
        """Begin a connection, or refuse what is no handshake, with the headers that every answer of the server has."""
        response = self.conn.accept(event)
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            super().handle_connect(event)
        else:
            self._refuse(response)

    async def send(self, message: ASGISendEvent) -> None:
        """Write what the application says; `messages`, which are as they go over the wire, in one write."""
        if messages := cast("dict[str, bytes]", message).get("messages"):
            await self.writable.wait()
            if self.disconnected or self.close_sent or self.conn.state is not State.OPEN:
                raise ClientDisconnected
            self.transport.write(messages)
            return
        if message["type"] == "websocket.http.response.start":
            # The server puts them on every other answer.
            message["headers"] = [*self.default_headers, *message.get("headers", ())]
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            # Refused by an HTTP answer, which is as complete as a handshake; uvicorn would log it as a fault.
            self.handshake_complete = True

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        super().resume_writing()

    def handle_text(self, event: Frame) -> None:
        self._begin_message(event)
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        self._begin_message(event)
        super().handle_bytes(event)

    def handle_cont(self, event: Frame) -> None:
        if event.fin:
            self._end_message()
        super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        """Hand a whole message over. uvicorn would write a traceback for each that is no text."""
        if self.curr_msg_data_type == "text" and not _is_text(self.frames):
            self._give_up("no UTF-8", CloseCode.INVALID_DATA)
            return
        super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        if not self._pings.take(self.loop.time()):
            self._give_up("too many pings")
            return
        super().handle_ping()

    def _refuse(self, response: Response) -> None:
        if self.note is not None:
            self.note(HTTPStatus(response.status_code).name, self.client[0] if self.client else "")
        for name, value in self.default_headers:
            response.headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        self.handshake_initiated = self.handshake_complete = self.close_sent = True
        self.transport.write(response.serialize())
        self.transport.close()

    def _begin_message(self, event: Frame) -> None:
        assert event.opcode in (Opcode.TEXT, Opcode.BINARY)
        if not event.fin and self._message_timer is None:
            self._message_timer = self.loop.call_later(MESSAGE_S, self._give_up, "the message did not end")

    def _end_message(self) -> None:
        if self._message_timer is not None:
            self._message_timer.cancel()
            self._message_timer = None

    def _give_up(self, reason: str, code: CloseCode = CloseCode.POLICY_VIOLATION) -> None:
        if self.close_sent or self.transport.is_closing():
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.fail(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.transport.close()


def noting(note: Callable[[str, str], None]) -> type[GatewayWebSocket]:
    """The protocol in the form that uvicorn wants: a class. `note` gets the reason of each refusal, and the peer's address."""
    return type("NotingWebSocket", (GatewayWebSocket,), {"note": staticmethod(note)})


def _is_text(frames: Iterable[bytes]) -> bool:
    try:
        b"".join(frames).decode()
    except UnicodeDecodeError:
        return False
    return True
