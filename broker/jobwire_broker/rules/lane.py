"""Group commit without timers: one call to the store at a time, and what arrives meanwhile goes with the next one.

The next call is sent as soon as the answer to the last one is there, and only then is that answer worked on: so the store works while we do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from jobwire_broker.errors import BrokerError, StoreFault
from jobwire_broker.store.answers import TurnReport

Call = TypeVar("Call")


class Lane(Generic[Call]):
    """Makes calls as long as `prepare` has one. All of its functions are the owner's."""

    def __init__(
        self,
        *,
        prepare: Callable[[], Call | None],
        send: Callable[[Call], Awaitable[TurnReport]],
        note: Callable[[Call, TurnReport], None],
        done: Callable[[Call, TurnReport], None],
        failed: Callable[[Call, BrokerError | StoreFault], Awaitable[None]],
    ) -> None:
        self._prepare = prepare
        self._send = send
        self._note = note
        self._done = done
        self._failed = failed
        self.task: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Begin, unless it runs already."""
        if self.task is None:
            self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        # A task begins in the next turn of the loop, so all who call in this one share the first call.
        try:
            under_way = self._start()
            while under_way is not None:
                call, answer = under_way
                try:
                    report = await answer
                except (BrokerError, StoreFault) as error:
                    await self._failed(call, error)
                    under_way = self._start()
                    continue
                # What the next call depends on, at once; the rest when that one is on its way.
                self._note(call, report)
                under_way = self._start()
                self._done(call, report)
                under_way = under_way or self._start()
        finally:
            self.task = None

    def _start(self) -> tuple[Call, Awaitable[TurnReport]] | None:
        call = self._prepare()
        return None if call is None else (call, self._send(call))
