"""Many event streams read by one process: no HTTP library stands between, because it would be what is measured."""

import select
import socket
import time
from collections.abc import Callable

_BUFFER = 1 << 16
_STAMP = b'"message":"'
_DIGITS = 20
_DATA_LINE = b"\ndata: "


class Readers:
    """`count` connections to one address, each with a path by its number. `frames` and `delays_ns` grow as they read."""

    def __init__(self, address: tuple[str, int], path: Callable[[int], str], count: int, *, receive_buffer: int | None = None) -> None:
        self.frames = 0
        self.delays_ns: list[int] = []
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        for number in range(count):
            self._open(address, path(number), receive_buffer)

    def __len__(self) -> int:
        return len(self._sockets)

    def read(self, until: Callable[[], bool], timeout_s: float) -> None:
        """Read whatever comes until a condition holds.

        Raises:
            TimeoutError: it did not, in that time.
        """
        end_s = time.monotonic() + timeout_s
        while not until():
            if time.monotonic() > end_s:
                raise TimeoutError(f"{self.frames} frames came to {len(self)} readers")
            for number, _ in self._poll.poll(0.001, 512):
                self._take(self._sockets[number])

    def forget(self) -> None:
        """Count from nothing."""
        self.frames = 0
        self.delays_ns = []

    def stop_reading(self) -> None:
        """Keep the connections and read no more."""
        for number in self._sockets:
            self._poll.unregister(number)

    def close(self) -> None:
        """End all connections."""
        self._poll.close()
        for each in self._sockets.values():
            each.close()
        self._sockets.clear()

    def _open(self, address: tuple[str, int], path: str, receive_buffer: int | None) -> None:
        made = socket.socket()
        if receive_buffer is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        made.connect(address)
        made.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n".encode())
        made.setblocking(False)
        self._sockets[made.fileno()] = made
        self._poll.register(made.fileno(), select.EPOLLIN)

    def _take(self, each: socket.socket) -> None:
        data = each.recv(_BUFFER)
        if not data:
            raise ConnectionError("the server closed a stream")
        self.frames += data.count(_DATA_LINE)
        at = data.rfind(_STAMP)
        if at >= 0:
            start = at + len(_STAMP)
            self.delays_ns.append(time.monotonic_ns() - int(data[start : start + _DIGITS]))
