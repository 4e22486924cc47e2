"""Who made the call that is being served. Only brokers that ask for credentials set it, so nobody pays for it elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import ContextVar

from jobwire_broker.auth.errors import NotPermitted
from jobwire_broker.auth.identity import Identity


class Caller:
    """The one who calls. A stream sets `on_end`, so that it is ended in its own way when the caller's time is over; `note` counts and logs what it refuses."""

    __slots__ = ("identity", "note", "on_end")

    def __init__(self, identity: Identity, note: Callable[[NotPermitted], None] = lambda error: None) -> None:
        self.identity = identity
        self.note = note
        self.on_end: Callable[[], None] | None = None


_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


def set_caller(caller: Caller) -> None:
    """From here on this task, and those that it makes, serve this caller."""
    _caller.set(caller)


def identity() -> Identity | None:
    """Who calls; None at a broker that asks nobody."""
    caller = _caller.get()
    return caller.identity if caller is not None else None


def end_with(end: Callable[[], None]) -> None:
    """Let `end` be called when the caller's credentials run out while the stream is open. It gets a few seconds, then the stream is cut."""
    if (caller := _caller.get()) is not None:
        caller.on_end = end


def checker(verb: str) -> Callable[[Iterable[str]], None] | None:
    """What raises NotPermitted for queues that the caller may not do `verb` to; None when there is nothing to check. For streams: made once, used often."""
    caller = _caller.get()
    if caller is None or caller.identity.may_everywhere(verb):
        return None

    def check(queues: Iterable[str]) -> None:
        for queue in queues:
            if not caller.identity.may(verb, queue):
                error = not_permitted(verb, queue)
                caller.note(error)
                raise error

    return check


def permitted(verb: str) -> Callable[[str], bool]:
    """Which queues a list may show to the caller."""
    asking = identity()
    if asking is None or asking.may_everywhere(verb):
        return lambda queue: True
    return lambda queue: asking.may(verb, queue)


def not_permitted(verb: str, queue: str = "") -> NotPermitted:
    """The same words whether the queue exists or not: who may not reach it does not learn that."""
    where = f"queue {queue}" if queue else "all queues"
    return NotPermitted(f"these credentials lack the scope {verb}:{queue or '*'} ({where})", verb=verb, queue=queue)
