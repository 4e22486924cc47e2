"""Follow one job on the event stream that browsers use, as a browser's EventSource does: reconnect after a break, say what was seen last, stop at 204."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx

_SILENCE_S = 60.0  # the gateway sends a heartbeat every 15 s

Event = dict[str, Any]


async def follow(http: httpx.AsyncClient, url: str) -> AsyncGenerator[Event, None]:
    """Yield the data of each event until the one of type `final`, or `error` when there is no such job."""
    last_id, retry_s = "", 2.0
    while True:
        try:
            async with http.stream("GET", url, headers={"Last-Event-ID": last_id} if last_id else {}, timeout=_SILENCE_S) as response:
                if response.status_code == httpx.codes.NO_CONTENT:
                    return
                response.raise_for_status()
                async for field, value in _fields(response):
                    if field == "id":
                        last_id = value
                    elif field == "retry":
                        retry_s = int(value) / 1000
                    elif field == "data":
                        event: Event = json.loads(value)
                        yield event
                        # The warning that a token is about to end is no end yet.
                        if event["type"] == "final" or (event["type"] == "error" and event["reason"] != "CREDENTIALS_EXPIRING"):
                            return
        except httpx.TransportError:
            pass  # the gateway went away: an EventSource comes back, and so do we
        await asyncio.sleep(retry_s)


async def _fields(response: httpx.Response) -> AsyncIterator[tuple[str, str]]:
    """The lines of a stream as (field, value). Our gateway writes one line of data per event, so a line is all there is to join."""
    async for line in response.aiter_lines():
        field, colon, value = line.partition(":")
        if field and colon:
            yield field, value.removeprefix(" ")
