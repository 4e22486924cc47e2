"""What calls to the store forget: jobs that have ended go when they are too old, or when somebody cleans up, all of those and no other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from jobwire.v1 import job_pb2
from jobwire_broker.names import id_to_bytes
from jobwire_broker.store import codec
from jobwire_broker.store.policy import policy_from_text

from tests.simulation.history import LOST, WRONG, History
from tests.simulation.plan import JobPlan, QueueRules
from tests.simulation.store_line import SharedStore

#: By their numbers, in the words of the policy.
_STATES: dict[int, str] = {
    job_pb2.JOB_STATE_COMPLETED: "completed",
    job_pb2.JOB_STATE_FAILED: "failed",
    job_pb2.JOB_STATE_CANCELLED: "cancelled",
    job_pb2.JOB_STATE_EXPIRED: "expired",
}


class ForgetWatch:
    """Looks at the jobs of a queue before and after each call that may forget some. Queues are named by what their keys begin with."""

    def __init__(self, store: SharedStore, history: History, by_base: Mapping[str, Sequence[JobPlan]], rules: Mapping[str, QueueRules]) -> None:
        self.cleaned: Counter[str] = Counter()
        """How many jobs were deleted by cleans, by queue."""
        self._store = store
        self._history = history
        self._by_base = by_base
        self._rules = rules
        self._before: dict[str, bytes] = {}

    @property
    def is_needed(self) -> bool:
        """Whether any queue is watched."""
        return bool(self._by_base)

    def begins(self, verb: str, base: str) -> None:
        """A call is about to be carried out."""
        if base in self._by_base and verb in ("pulse", "clean"):
            self._before = self._records(base)

    def carried_out(self, verb: str, base: str, arguments: Sequence[bytes], count: int) -> None:
        """It has been. `count` is that of a clean."""
        if base not in self._by_base or verb not in ("pulse", "clean"):
            return
        now = self._records(base)
        gone = self._before.keys() - now.keys()
        if verb == "clean":
            self._cleaned(base, gone, arguments, count)
        else:
            self._pulsed(base, gone, now)

    def _cleaned(self, base: str, gone: set[str], arguments: Sequence[bytes], count: int) -> None:
        state, grace_ms, newest = map(int, arguments[:3])
        latest_us = newest or (self._store.now_us() - grace_ms * 1000 if grace_ms else 1 << 62)
        right = {text for text, record in self._before.items() if codec.state_of(record) == state and _ended_us(record) <= latest_us}
        self.cleaned[base] += len(gone)
        if gone != right or count != len(gone):
            self._history.blame(
                WRONG, f"a clean of state {_STATES.get(state)} says that it has deleted {count} jobs, has deleted {gone}, and was to delete {right}"
            )

    def _pulsed(self, base: str, gone: set[str], now: Mapping[str, bytes]) -> None:
        ages = policy_from_text((self._store.real.ask("HGET", base + "m", "policy") or b"").decode()).rules.retention
        kept = self._rules[base].kept if base in self._rules else {}
        for text in sorted(gone):
            record = self._before[text]
            word = _STATES.get(codec.state_of(record), "")
            # What ends in this call may give way to others at once, where a state keeps few.
            may_give_way = word in kept if word else bool(kept) or _own_ms(record) == 0
            if not may_give_way and not self._is_old(record, ages):
                self._history.blame(LOST, f"{text} is gone, and was {word or 'not over'}, and not too old", text)
        for text, record in now.items():
            if self._is_old(record, ages):
                self._history.blame(WRONG, f"{text} is still kept, and is older than its state or it itself says", text)

    def _is_old(self, record: bytes, ages: object) -> bool:
        word = _STATES.get(codec.state_of(record))
        if word is None:
            return False
        own_ms, now_us = _own_ms(record), self._store.now_us()
        if own_ms is not None:
            return _ended_us(record) // 1000 + own_ms <= now_us // 1000
        retention = getattr(ages, word)
        return bool(retention.HasField("age")) and _ended_us(record) <= now_us - retention.age.ToMilliseconds() * 1000

    def _records(self, base: str) -> dict[str, bytes]:
        texts = [job.id for job in self._by_base[base]]
        found = self._store.real.ask_all([("GET", base.encode() + b"j" + id_to_bytes(text, "id")) for text in texts])
        return {text: record for text, record in zip(texts, found, strict=True) if record}


def _sections(record: bytes) -> Mapping[int, bytes]:
    return codec.sections(record, codec.body_start(record))


def _ended_us(record: bytes) -> int:
    return codec.ended_us(record, _sections(record))


def _own_ms(record: bytes) -> int | None:
    own = _sections(record).get(codec.TAG_RETENTION)
    return None if own is None else int.from_bytes(own, "big")
