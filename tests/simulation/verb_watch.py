"""What callers have done to jobs, as the store carried it out: what each later lease must be because of it, and how many jobs a full queue may have."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jobwire.v1 import job_pb2
from jobwire_broker.names import id_to_bytes, id_to_text
from jobwire_broker.store import codec

from tests.simulation.history import OUT_OF_ORDER, OVER_ADMITTED, WRONG, History
from tests.simulation.plan import JobPlan
from tests.simulation.store_line import SharedStore

_SECTION_HEAD = 5
_EARLY_MS = 2
#: The calls whose arguments are needed.
READ = frozenset(("cancel", "redrive", "retry", "promote", "delete", "update", "bulk", "end_run", "enqueue"))
#: Where the ids of each verb begin.
_IDS_AT = {"cancel": 1, "redrive": 1, "retry": 0, "promote": 0, "delete": 0}
_STATE = job_pb2.JobState


class VerbWatch:
    """Follows each job through what is done to it."""

    def __init__(self, store: SharedStore, history: History, by_id: Mapping[str, JobPlan]) -> None:
        self.depths: dict[str, int] = {}
        """The maximum depths in force, by queue."""
        self.done: Counter[bytes] = Counter()
        """How many jobs each bulk run has acted on."""
        self.purged: Counter[str] = Counter()
        """How many jobs were purged, by queue."""
        self.made_us: dict[str, int] = {}
        """When each job was made."""
        self.notes: dict[str, bytes] = {}
        """The bulk run that leaves each note."""
        self.offered: dict[bytes, set[str]] = {}
        """The jobs that each bulk run has tried to act on."""
        self.stopped: set[bytes] = set()
        """The bulk runs that somebody has stopped."""
        self._unknown: Counter[str] = Counter()
        self.last_token: Callable[[str], int] = lambda text: 0
        self._store = store
        self._history = history
        self._by_id = by_id
        self._unfinished: Counter[str] = Counter()
        self._payloads: dict[str, bytes] = {}
        self._teams: dict[str, str] = {}
        self._dues_ms: dict[str, int] = {}
        self._over: dict[str, str] = {}
        """Jobs that must not be leased again, and the verb that says so."""
        self._first_ms: dict[str, int] = {}
        """When jobs with a debounce were made."""
        self._moved: set[str] = set()
        """Jobs whose call has moved another."""

    def remembered(self) -> dict[str, Any]:
        """What it knows of jobs now."""
        return {name: copy.copy(getattr(self, name)) for name in ("_payloads", "_teams", "_dues_ms", "_over", "made_us")}

    def remember(self, known: Mapping[str, Any]) -> None:
        """Know of jobs what was known once."""
        for name, value in known.items():
            setattr(self, name, value)

    def hold_to_depth(self, base: str, depth: int) -> None:
        """The queue takes no more jobs than this from now on; 0: any number."""
        self.depths.pop(base, None)
        if depth:
            self.depths[base], self._unfinished[base] = depth, self.count(base)

    def carried_out(self, verb: str, base: str, arguments: Sequence[bytes], answer: Any) -> None:
        """A call has been carried out, and its leases have not been told yet."""
        if verb in _IDS_AT:
            for raw_id, (word, *_) in zip(arguments[_IDS_AT[verb] :], answer, strict=True):
                if word == b"OK":
                    self._acted(verb, id_to_text(raw_id), arguments)
        elif verb == "update":
            self._updated(arguments, answer[0][0])
        elif verb == "bulk":
            self._bulk(base, arguments, answer)
        elif verb == "end_run" and arguments[1] == b"STOPPED" and answer[0] in (b"OK", b"STOPPED"):
            self.stopped.add(arguments[0])
        elif verb == "purge":
            self._purged(base, answer[0])
        elif verb == "enqueue" and len(answer) > 1:
            self._enqueued(base, arguments, answer[0])
        if base in self.depths:
            self._check_depth(verb, base, answer)

    def leased(self, base: str, text: str, token: int, record: bytes) -> None:
        """A job was leased. Its record is as it was before, with all that is kept apart from it."""
        if text in self._over:
            self._history.blame(WRONG, f"{text} is leased, and a {self._over[text]} has ended it", text)
        due_ms = self._dues_ms.pop(text, 0)
        if self._store.now_us() / 1000 < due_ms - _EARLY_MS:
            self._history.blame(OUT_OF_ORDER, f"{text} is leased {due_ms / 1000 - self._store.now_us() / 1e6:.3f} s before the date that it was given", text)
        right = self._payloads.get(text) or job_pb2.Payload(json=self._by_id[text].payload).SerializeToString()
        sections = codec.sections(record, codec.body_start(record))
        if sections.get(codec.TAG_PAYLOAD) != right:
            self._history.blame(WRONG, f"{text} is leased with another payload than that of the last change", text)
        labels = codec.decode_labels(sections.get(codec.TAG_LABELS, b""))
        if labels.get("team", "") != self.team_of(text):
            self._history.blame(WRONG, f"{text} is leased with the labels {labels}, and the last change gave it the team {self.team_of(text)!r}", text)
        self._history.payloads[text, token] = job_pb2.Payload.FromString(right).json.encode()

    def team_of(self, text: str) -> str:
        """The label that a job has."""
        return self._teams.get(text, self._by_id[text].team)

    # Verbs for one job --------------------------------------------------------------------------------------------------------------------------------

    def _acted(self, verb: str, text: str, arguments: Sequence[bytes]) -> None:
        if verb in ("cancel", "delete"):
            self._over[text] = verb
            return
        self._dues_ms.pop(text, None)
        if verb in ("retry", "redrive"):
            self._over.pop(text, None)
        if verb == "redrive":
            self._payloads[text] = arguments[0][_SECTION_HEAD:]

    def _updated(self, arguments: Sequence[bytes], word: bytes) -> None:
        text, changes = id_to_text(arguments[0]), dict(zip(arguments[1::2], arguments[2::2], strict=True))
        if word != b"OK":
            return
        if b"payload" in changes:
            self._payloads[text] = changes[b"payload"][_SECTION_HEAD:]
        if b"labels" in changes:
            self._teams[text] = codec.decode_labels(changes[b"labels"][_SECTION_HEAD:]).get("team", "")
        if b"due" in changes:
            self._dues_ms[text] = int(changes[b"due"])

    # Verbs for many -----------------------------------------------------------------------------------------------------------------------------------

    def _bulk(self, base: str, arguments: Sequence[bytes], answer: Sequence[Any]) -> None:
        verb, _, newest, run, _, *raw_ids = arguments
        word, total, skipped, _ = answer
        if word != b"OK":
            return
        if run in self.stopped:
            self._history.blame(WRONG, f"a bulk {verb.decode()} goes on that was stopped")
        self.done[run] += len(raw_ids) - skipped
        self.offered.setdefault(run, set()).update(map(id_to_text, raw_ids))
        if raw_ids and self.done[run] != total:
            self._history.blame(WRONG, f"a bulk run says that it has acted on {total} jobs, and it was {self.done[run]}")
        records = self._records(base, raw_ids)
        changed = [text for text, record in records.items() if self.last_token(text) > int(newest) or (record and codec.created_of(record) > int(newest))]
        if len(changed) > skipped:
            self._history.blame(WRONG, f"a bulk run skips {skipped} jobs, and these have changed since its dry run: {changed}", changed[0])
        for text, record in records.items():
            if verb in (b"cancel", b"delete") and _is_over(record):
                self._over[text] = f"bulk {verb.decode()}"
            elif verb in (b"retry", b"promote") and skipped < len(raw_ids):
                self._acted(verb.decode(), text, arguments)

    def _purged(self, base: str, deleted: int) -> None:
        """What was there, and is there no more, has ended in some way: what was never leased nor ended by another verb, by this call."""
        self.purged[base] += deleted
        acknowledged = [text for text in self._by_id if (story := self._history.story(text)).acknowledged_s is not None and not story.alias]
        own = [id_to_bytes(text, "id") for text in acknowledged if f"{{{self._by_id[text].queue}}}" in base]
        gone = [text for text, record in self._records(base, own).items() if not record and text not in self._over]
        waited = [text for text in gone if not self.last_token(text) and not self._by_id[text].expires_s]
        # A job may be deleted before the answer to its enqueue has come, and be known only at a later call.
        room = deleted + self._unknown[base]
        self._unknown[base] = max(0, room - len(waited))
        if len(waited) > room:
            self._history.blame(WRONG, f"a purge says that it has deleted {deleted} jobs, and these are gone: {waited}", waited[0])
        self._over |= dict.fromkeys(gone, "purge")

    def _records(self, base: str, raw_ids: Sequence[bytes]) -> dict[str, bytes]:
        """Empty for those that are gone."""
        found = self._store.real.ask_all([("GET", base.encode() + b"j" + raw_id) for raw_id in raw_ids])
        return {id_to_text(raw_id): record or b"" for raw_id, record in zip(raw_ids, found, strict=True)}

    # Enqueues -----------------------------------------------------------------------------------------------------------------------------------------

    def _enqueued(self, base: str, arguments: Sequence[bytes], words: Sequence[bytes]) -> None:
        raw_ids = arguments[5 : 5 + 2 * int(arguments[0]) : 2]
        for raw_id, word in zip(raw_ids, words or [b"MADE"] * len(raw_ids), strict=True):
            job = self._by_id[id_to_text(raw_id)]
            if word == b"MADE":
                self.made_us.setdefault(job.id, self._store.now_us())
            if job.identity != "debounce":
                continue
            if word == b"MADE":
                self._first_ms.setdefault(job.id, self._store.now_us() // 1000)
            elif word.startswith(b"REPLACED "):
                self._replaced(base, job, word.removeprefix(b"REPLACED "))

    def _replaced(self, base: str, job: JobPlan, holder: bytes) -> None:
        """A later call has moved the job of an earlier one, and gave it what it brings. It is due when its delay is over, or its maximum wait, and no later."""
        if job.id in self._moved:
            # It came once more, and has moved nothing.
            return
        self._moved.add(job.id)
        text = id_to_text(holder)
        self._payloads.pop(text, None)
        self._dues_ms.pop(text, None)
        header = codec.header_of(self._records(base, [holder])[text])
        due_ms = self._store.now_us() // 1000 + job.window_s * 1000
        if job.max_wait_s:
            due_ms = min(due_ms, self._first_ms[text] + job.max_wait_s * 1000)
        if header.state == _STATE.JOB_STATE_DELAYED and abs(header.order / 1000 - due_ms) > _EARLY_MS:
            self._history.blame(WRONG, f"{text} is to start {(header.order / 1000 - due_ms) / 1000:.3f} s later than its delay and its maximum wait say", text)

    def _check_depth(self, verb: str, base: str, answer: Any) -> None:
        """No enqueue makes more jobs than there is room for, nor is one refused while there is."""
        before, now = self._unfinished[base], self.count(base)
        self._unfinished[base] = now
        most = self.depths[base]
        if verb != "enqueue" or len(answer) < 2:
            return
        if now > max(before, most):
            self._history.blame(OVER_ADMITTED, f"an enqueue leaves {now} jobs that have not ended in a queue that takes {most}")
        if b"FULL" in answer[0] and now < most and not any(job.expires_s for job in self._by_id.values()):
            self._history.blame(WRONG, f"an enqueue is refused, and the queue has {now} jobs that have not ended, and takes {most}")

    def count(self, base: str) -> int:
        """How many of its jobs have not ended."""
        found = self._store.real.ask_all([("HGET", base + "m", "lw"), *(("ZCARD", base + place) for place in "woda")])
        return sum(int(number or 0) for number in found)


def _is_over(record: bytes) -> bool:
    return not record or codec.state_of(record) == _STATE.JOB_STATE_CANCELLED or bool(codec.header_of(record).flags & codec.FLAG_CANCEL_REQUESTED)
