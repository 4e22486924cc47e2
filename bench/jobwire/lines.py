"""The driver protocol of bench/README.md: one JSON object per line, commands on stdin, answers on stdout."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import uvloop

Command = Callable[[dict[str, Any]], Awaitable[dict[str, Any] | None]]


def settings() -> dict[str, Any]:
    """Return what the harness gave to this driver."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    return given


def say(answer: dict[str, Any]) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def serve(commands: Mapping[str, Command]) -> None:
    """Run the commands one after the other until stdin closes, so no driver outlives the harness."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async for line in lines:
        command = json.loads(line)
        answer = await commands[command["do"]](command)
        if answer is not None:
            say(answer)


def start(main: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run a driver, on uvloop if the settings say so."""
    if settings()["uvloop"]:
        uvloop.install()
    asyncio.run(main())
