"""What is written to a WebSocket."""

import asyncio
import json

from jobwire.v1.event_service_pb2 import SubscribeResponse
from jobwire.v1.job_service_pb2 import ChangeType, JobChange
from jobwire_gateway import frames
from jobwire_gateway.mailbox import Bounds
from jobwire_gateway.topics import Topics
from jobwire_gateway.ws import Socket
from starlette.types import Message

from .reading import job

A, B = "queues/q/jobs/a", "queues/q/jobs/b"


def test_b02_a_message_is_made_once_for_all_who_get_it() -> None:
    short, long = frames.update(job(1)), frames.update(job(1, job_id="j" * 100))
    for frame, head in ((short, b"\x81\x7e"), (frames.unsubscribed("q"), b"\x81\x22"), (long, b"\x81\x7e")):
        assert frame.message is frame.message
        assert frame.message.startswith(head)
        assert frame.message.endswith(frame.json)


async def test_b02_all_that_waits_for_a_socket_goes_out_in_one_write() -> None:
    sent: list[Message] = []
    written = asyncio.Event()

    async def send(message: Message) -> None:
        sent.append(message)
        written.set()

    topics = Topics(Bounds(100, 1_000_000), 15_000)
    list(topics.plug())
    sockets = [Socket(topics, send, lambda reason: None, 10) for _ in range(2)]
    messages = iter([{"type": "websocket.receive", "text": f'{{"type":"subscribe","topics":["{A}","{B}"]}}'}, {"type": "websocket.disconnect"}] * 2)

    async def receive() -> Message:
        return next(messages)

    for socket in sockets:
        await socket.listen(receive)
    add, _ = topics.demand()
    changes = [JobChange(type=ChangeType.CHANGE_TYPE_SNAPSHOT, job=job(1, job_id=name[-1])) for name in add]
    list(topics.apply(SubscribeResponse(added=add, changes=changes)))
    while len(sent) < 2:
        await asyncio.wait_for(written.wait(), 5)
        written.clear()
    assert [message["messages"].count(b'"type":') for message in sent] == [4, 4]
    for socket in sockets:
        await socket.leave()


async def test_b01_answers_to_unsubscribe_are_bounded_where_nobody_reads_them() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "websocket.send":
            await asyncio.Event().wait()

    socket = Socket(Topics(Bounds(10, 1_000), 15_000), send, lambda reason: None, 10)
    taken = 0

    async def receive() -> Message:
        nonlocal taken
        taken += 1
        await asyncio.sleep(0)
        return {"type": "websocket.receive", "text": f'{{"type":"unsubscribe","topics":{json.dumps([f"queues/q{taken}-{n}" for n in range(10)])}}}'}

    await socket.listen(receive)
    await socket.leave()
    assert (sent[-1]["type"], sent[-1]["code"]) == ("websocket.close", 1008)
    # What was asked first was on its way; of the rest no more waited than two mailboxes full and what a few messages may ask.
    assert taken == 7
