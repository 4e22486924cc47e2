"""The yardstick: a bare ASGI app that writes to each of its connections what comes in on its standard input, and does nothing else."""

import asyncio
import socket
import struct
import sys
from typing import Any

import uvicorn
import uvloop

_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store, no-transform"), (b"x-accel-buffering", b"no")]


class Yardstick:
    """The app. Each connection has a queue of what is to be written."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[bytes]] = set()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._queues.add(queue)
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": b"retry: 2000\n\ndata: {}\n\n", "more_body": True})
        while True:
            await send({"type": "http.response.body", "body": await queue.get(), "more_body": True})

    async def broadcast(self) -> None:
        """Hand on each chunk of the standard input: its length in four bytes, then the chunk."""
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while True:
            (length,) = struct.unpack("!I", await reader.readexactly(4))
            data = await reader.readexactly(length)
            for queue in self._queues:
                queue.put_nowait(data)


async def main() -> None:
    """Serve on a free port, which the first line of the output names."""
    app = Yardstick()
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(app, loop="none", http="httptools", ws="none", lifespan="off", log_config=None, access_log=False, server_header=False)
    print(listener.getsockname()[1], flush=True)
    broadcasting = asyncio.create_task(app.broadcast())
    await uvicorn.Server(config).serve([listener])
    broadcasting.cancel()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
