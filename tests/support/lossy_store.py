"""A proxy between a broker and its store that loses what networks lose: pub/sub messages, and the answers to function calls.

A message of pub/sub is dropped alone, as the store itself may do. An answer can't be dropped alone, for TCP would not lose it alone either: the function has
run, and then the connection is cut (`CUT`), or nothing more comes through it (`STALL`) until the broker gives it up.
"""

import asyncio
import random
from collections import deque
from enum import Enum

from tests.support.relay import Link, Relay
from tests.support.resp import first_words, value_end
from tests.support.store import Store

_SUBSCRIBE = {b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE"}
_MESSAGES = {b"message", b"pmessage", b"smessage"}
#: Stands for a function whose answer is to be lost.
_NEXT = b"next"
_FUNCTIONS = {b"FCALL", b"FCALL_RO", _NEXT}


class Loss(Enum):
    """How an answer is lost."""

    CUT = "cut"
    STALL = "stall"


class LossyStore(Relay):
    """Stands before a store; a broker gets `url`. Loses `message_share` of the pub/sub messages and every `reply_every`-th answer to a function (0: none)."""

    def __init__(self, store: Store, *, seed: int, message_share: float = 0.0, reply_every: int = 0, loss: Loss = Loss.CUT) -> None:
        super().__init__(f"127.0.0.1:{store.port}" if store.port else str(store.socket))
        self.messages = 0
        self.messages_lost = 0
        self.replies = 0
        self.replies_lost = 0
        self.lost = asyncio.Event()
        self._random = random.Random(seed)
        self._message_share = message_share
        self._reply_every = reply_every
        self._loss = loss
        self._lose_next = b""
        self._asked: dict[Link, deque[bytes]] = {}
        self._silent: set[Link] = set()

    @property
    def url(self) -> str:
        return f"redis://{self.address}"

    def silence_subscriptions(self) -> None:
        """From now on nothing comes through the connections that have subscribed to something, though they stay open; new ones are let through."""
        self._silent = {link for link, asked in self._asked.items() if asked and asked[0] in _SUBSCRIBE}

    def lose_next(self, function: str) -> None:
        """Lose the next answer to this function, whose name is that of its Lua file."""
        self._lose_next = function.encode()

    async def pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        asked = self._asked.setdefault(link, deque())
        buffer = b""
        while data := await reader.read(1 << 16):
            buffer += data
            start = 0
            while (end := value_end(buffer, start)) is not None:
                value, start = buffer[start:end], end
                if up:
                    command, *names = first_words(value, 2)
                    asked.append(_NEXT if self._lose_next and names and names[0].endswith(b"_" + self._lose_next) else command.upper())
                    writer.write(value)
                elif not await self._answer(link, asked, value, writer):
                    return
            buffer = buffer[start:]
            await writer.drain()

    async def _answer(self, link: Link, asked: deque[bytes], value: bytes, writer: asyncio.StreamWriter) -> bool:
        """Forward one value of the store or lose it. False when the connection is over."""
        if link in self._silent:
            return True
        if self._is_message(asked, value):
            self.messages += 1
            if self._random.random() < self._message_share:
                self.messages_lost += 1
                return True
        elif not value.startswith(b">") and asked and asked[0] not in _SUBSCRIBE and (command := asked.popleft()) in _FUNCTIONS:
            self.replies += 1
            if command == _NEXT or (self._reply_every and self.replies % self._reply_every == 0):
                self._lose_next = b""
                self.replies_lost += 1
                self.lost.set()
                await self._lose(link)
                return False
        writer.write(value)
        return True

    def _is_message(self, asked: deque[bytes], value: bytes) -> bool:
        pushed = value.startswith(b">") or (value.startswith(b"*") and bool(asked) and asked[0] in _SUBSCRIBE)
        return pushed and first_words(value, 1)[0] in _MESSAGES

    async def _lose(self, link: Link) -> None:
        if self._loss is Loss.CUT:
            link.cut()
        else:
            await asyncio.Event().wait()  # until the broker closes the connection, which ends both pumps
