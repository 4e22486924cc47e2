"""uvicorn's HTTP protocol with the bounds that it lacks.

httptools takes a request head of any size and uvicorn waits for it for ever; and a reader that stops reading would hold its connection for
good. So: a head has a size (431) and a time (408, or a plain close when nothing came), and a write that makes no way for 30 s ends the
connection. And an answer that does not wait for the whole body (413) must not be lost: to close a connection while more comes in resets it, so
the rest is read and thrown away first, for a time. What is no HTTP is a refusal like any other, and not a line in the log at whatever rate it comes.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

HEAD_S = 10.0
"""A request head that takes longer to arrive is given up."""

STALL_S = 30.0
"""A write that makes no way for so long ends the connection."""

_LINGER_S = 1.0
"""How long what still comes in after the refusal of a head is read and thrown away."""

_REST_S = 10.0
"""The same for the rest of a body that was answered before its end."""

_LINE_OVERHEAD = 4
"""What a header costs beside its name and value: the colon, a space and the line's end."""


class GatewayProtocol(HttpToolsProtocol):
    """One connection. `max_head_bytes`, and `note` that hears of refusals, are set on a subclass by `bounded`."""

    max_head_bytes = 32 * 1024
    note: Callable[[str, str], None] | None = None

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_bytes = 0
        self._heads = 0
        self._in_head = True
        self._refused = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._rest_timer: asyncio.TimerHandle | None = None

    @property
    def stalled(self) -> bool:
        """Whether it waits for its reader."""
        return self.flow is not None and self.flow.write_paused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_S, self._head_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        if self._rest_timer is not None:
            self._rest_timer.cancel()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._in_head and self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self._head_late)
        # A whole request may come at once, body and all: what counts is what came while one and the same head was read.
        was_in_head, heads = self._in_head, self._heads
        self._parse(data)
        if was_in_head and self._in_head and self._heads == heads and not self._refused:
            self._head_bytes += len(data)
            self._check_head(self._head_bytes)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._heads += 1
        self._head_bytes = 0
        self._stop_head_timer()
        self._check_head(len(self.url) + sum(len(name) + len(value) + _LINE_OVERHEAD for name, value in self.headers))
        if not self._refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        # What follows on this connection is the next head.
        self._in_head = True
        if self._rest_timer is not None:
            # Answered before; the connection is as good as new, and idle.
            self._rest_timer.cancel()
            self._rest_timer = None
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        if not self._refused:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._in_head and not self.transport.is_closing():
            self._rest_timer = self.loop.call_later(_REST_S, self.transport.close)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        super().resume_writing()

    def _parse(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        assert self.parser is not None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Any other upgrade is passed over, and the request answered as it is.
            if self._should_upgrade() and not self._refused:
                self.handle_websocket_upgrade()
        except httptools.HttpParserError:
            if not self._refused:
                self._refuse(HTTPStatus.BAD_REQUEST, "This is no HTTP request.")

    def _check_head(self, size: int) -> None:
        if size > self.max_head_bytes:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"The request line and its headers are larger than {self.max_head_bytes} bytes.")

    def _head_late(self) -> None:
        self._head_timer = None
        if self._head_bytes:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"The request's head did not arrive within {HEAD_S:.0f} s.")
        elif not self.transport.is_closing():
            self.transport.close()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        self._refused = True
        if self.transport.is_closing():
            return
        if self.note is not None:
            self.note(status.name, self.client[0] if self.client else "")
        if self.cycle is not None and not self.cycle.response_complete:
            if self._in_head or self.cycle.response_started or self.pipeline:
                # The answer under way is of the request before, or has begun; this one would be taken for it, or for a part of it.
                self.transport.close()
                return
            # It is the body that is wrong, and whoever reads it learns that no more comes.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        body = f'{{"type":"about:blank","title":"{status.phrase}","status":{status.value},"detail":"{sentence}"}}'.encode()
        ours = "".join(f"{name.decode('latin-1')}: {value.decode('latin-1')}\r\n" for name, value in self.server_state.default_headers)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\n{ours}content-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        # To close while more comes in would reset the connection, and the answer would be lost with it.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.close)


def bounded(max_head_bytes: int, note: Callable[[str, str], None]) -> type[GatewayProtocol]:
    """The protocol with its bound, in the form that uvicorn wants: a class. `note` gets the reason of each refusal, and the peer's address."""
    return type("BoundedProtocol", (GatewayProtocol,), {"max_head_bytes": max_head_bytes, "note": staticmethod(note)})
