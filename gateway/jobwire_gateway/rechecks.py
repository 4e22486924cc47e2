"""Ends the streams of a key that was taken away, or may do something else than before.

What a request would be refused, a stream that is open must not go on to give.
"""

import asyncio
from collections.abc import Sequence

from jobwire_gateway.access import KEPT_S, Identities
from jobwire_gateway.streams import Streams

AT_ONCE = 64
"""How many calls are under way at once: so thousands of tokens are through long before the next round, and the broker has others to serve."""


class Rechecks:
    """Asks again, every KEPT_S, for all credentials with which streams are open: one call for each, however many streams they have."""

    def __init__(self, streams: Streams, identities: Identities, every_s: float = KEPT_S) -> None:
        self._streams = streams
        self._identities = identities
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin. To start twice is no error."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="rechecks")

    async def stop(self) -> None:
        """End. To stop twice, or before the start, is no error."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            all_credentials = list(self._streams.credentials())
            for start in range(0, len(all_credentials), AT_ONCE):
                await self._ask(all_credentials[start : start + AT_ONCE])

    async def _ask(self, some: Sequence[str]) -> None:
        found = await asyncio.gather(*map(self._identities.rights_of, some), return_exceptions=True)
        # Of those that nobody can be asked about nothing is known to have changed.
        self._streams.expire({credentials: rights for credentials, rights in zip(some, found, strict=True) if not isinstance(rights, BaseException)})
