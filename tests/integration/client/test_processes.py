"""The client in programs of their own: forks, and the end of a program."""

import subprocess
import sys

from tests.support import Broker

_FORK = """
import os, sys
from jobwire_client import ClientClosed, SyncClient

unused, used = SyncClient(sys.argv[1]), SyncClient(sys.argv[1])
used.enqueue(sys.argv[2], "h", "parent") if sys.argv[3] == "used" else None
sys.stdout.flush()
child = os.fork()
if child == 0:
    try:
        (used if sys.argv[3] == "used" else unused).enqueue(sys.argv[2], "h", "child")
    except ClientClosed as error:
        print("closed:", error, flush=True)
    else:
        print("made", flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
used.close()
unused.close()
"""

_NO_CLOSE = """
import sys
from jobwire_client import SyncClient

print(SyncClient(sys.argv[1]).enqueue(sys.argv[2], "h").verdict)
"""

_THIN = """
import sys
import jobwire_client
print([name for name in ("typer", "rich", "redis", "starlette", "uvicorn") if name in sys.modules])
"""


def run(program: str, *arguments: str) -> str:
    """What the program printed. It must end by itself, and without an error; gRPC itself logs a line about each fork."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program, *arguments], capture_output=True, text=True, timeout=30, check=True)
    assert "Error" not in done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.strip()


def test_a_client_made_before_a_fork_works_in_the_child(shared_broker: Broker, queue: str) -> None:
    assert run(_FORK, shared_broker.address, queue, "unused") == "made"


def test_a_client_used_before_a_fork_says_so_in_the_child(shared_broker: Broker, queue: str) -> None:
    assert run(_FORK, shared_broker.address, queue, "used").startswith("closed: the client was used before this process was forked")


def test_a_program_ends_although_it_never_closed_its_client(shared_broker: Broker, queue: str) -> None:
    assert run(_NO_CLOSE, shared_broker.address, queue) == "made"


def test_the_client_needs_grpcio_and_protobuf_alone() -> None:
    assert run(_THIN) == "[]"


_BOTH = """
import asyncio, sys
from jobwire_client import Client, SyncClient

async def main(target, queue):
    loop = asyncio.get_running_loop()
    heard = []
    loop.set_exception_handler(mine := lambda loop, context: heard.append(context["message"]))
    async with Client(target) as client:
        with SyncClient(target) as other:
            for _ in range(100):
                await asyncio.gather(client.enqueue(queue, "h"), asyncio.to_thread(other.enqueue, queue, "h"))
            loop.call_exception_handler({"message": "the program's own"})
    assert loop.get_exception_handler() is mine
    print(heard)

asyncio.run(main(*sys.argv[1:]))
"""


def test_two_event_loops_in_a_program_make_no_noise_and_hide_no_error(shared_broker: Broker, queue: str) -> None:
    assert run(_BOTH, shared_broker.address, queue) == '["the program\'s own"]'
