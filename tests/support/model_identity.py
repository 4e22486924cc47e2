"""What the model of the store knows of identities: who holds which key."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tests.support.model_job import Content

HELD_UNTIL_THE_END = ("u", "d")


@dataclass
class Holder:
    """The job that holds a key. `signature` is what an idempotency key is compared by."""

    raw_id: str
    signature: bytes
    is_long_ago: bool = False
    """Whether the maximum wait of a debounce is over."""


class Identities:
    """The keys of a queue, each by its kind and name: k idempotency, t throttle, u unique, d debounce."""

    def __init__(self) -> None:
        self._holders: dict[str, Holder] = {}

    def view(self) -> dict[str, str]:
        """As QueueState has them."""
        return {key: holder.raw_id for key, holder in self._holders.items()}

    def holder(self, content: Content) -> Holder | None:
        """Who holds the key that is asked for."""
        return self._holders.get(key_of(content.identity)) if content.identity else None

    def take(self, raw_id: str, content: Content) -> None:
        """Let a job hold its key from now on."""
        if content.identity:
            self._holders[key_of(content.identity)] = Holder(raw_id, content.payload)

    def free(self, raw_id: str, content: Content) -> None:
        """A job has ended: so does its hold on a key, where that is a matter of the job and not of time."""
        holder = self.holder(content)
        if holder is not None and holder.raw_id == raw_id and key_of(content.identity)[0] in HELD_UNTIL_THE_END:
            del self._holders[key_of(content.identity)]

    def let_time_pass(self) -> None:
        """Idempotency keys and throttles run out, and so do the maximum waits."""
        self._holders = {key: holder for key, holder in self._holders.items() if key[0] in HELD_UNTIL_THE_END}
        for holder in self._holders.values():
            holder.is_long_ago = True


def key_of(identity: bytes) -> str:
    """Kind and name of a key."""
    sizes = {"k": 9, "t": 9, "u": 1, "d": 17}
    kind = identity[:1].decode()
    return f"{kind} {identity[sizes[kind] :].decode()}"


def waits_of(debounce: bytes) -> tuple[int, int]:
    """The delay and the maximum wait in ms; 0: there is none."""
    delay_ms, most_ms = struct.unpack_from(">QQ", debounce, 1)
    return delay_ms, most_ms
