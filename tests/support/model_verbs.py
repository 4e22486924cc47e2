"""What callers do to jobs in the model of the store."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.model_job import FINAL, Change, Removed
from tests.support.model_moves import Answer, Moves


class Verbs(Moves):
    """One job at a time, and many."""

    def cancel(self, raw_id: str, grace_ms: int) -> Answer:
        """The word and the state after it."""
        job = self.jobs.get(raw_id)
        if job is None:
            return self._gone(raw_id)
        if job.state in FINAL:
            return ("OK" if job.state == "CANCELLED" else "WRONG_STATE"), job.state
        if job.state != "ACTIVE":
            self._end_cancelled(raw_id)
        elif grace_ms == 0:
            self._leave_session(raw_id)
            self._end_cancelled(raw_id)
        elif not job.cancel_requested:
            job.cancel_requested, job.cancel_deadline = True, self.clock + grace_ms
            self.touched.add(raw_id)
        return "OK", job.state

    def retry(self, raw_id: str) -> Answer:
        """The word and the state after it."""
        job = self.jobs.get(raw_id)
        if job is None:
            return self._gone(raw_id)
        if job.state in ("WAITING", "DELAYED"):
            return "OK", job.state
        if job.state in ("ACTIVE", "COMPLETED"):
            return "WRONG_STATE", job.state
        if job.content.identity[:1] == b"u":
            holder = self.identities.holder(job.content)
            if holder is not None and holder.raw_id != raw_id:
                return "KEY_HELD", job.state
            self.identities.take(raw_id, job.content)
        self.ended[job.state].remove(raw_id)
        job.attempt = job.losses = job.returns = 0
        job.progress = job.order = None
        job.happened.pop("progress", None)
        job.note, job.ended = None, job.ended or "CANCEL"
        job.alone = job.lost = job.cancel_requested = job.cancel_delivered = False
        self._wait(raw_id)
        return "OK", "WAITING"

    def promote(self, raw_id: str) -> Answer:
        """The word and the state after it."""
        job = self.jobs.get(raw_id)
        if job is None:
            return self._gone(raw_id)
        if job.state == "DELAYED":
            job.order = None
            self._wait(raw_id)
        return ("OK" if job.state == "WAITING" else "WRONG_STATE"), job.state

    def delete(self, raw_id: str) -> Answer:
        """The word and the state after it."""
        job = self.jobs.get(raw_id)
        if job is None:
            return self._gone(raw_id)
        if job.state == "ACTIVE":
            return "WRONG_STATE", "ACTIVE"
        if job.state in FINAL:
            self.ended[job.state].remove(raw_id)
        self.identities.free(raw_id, job.content)
        self.removed[raw_id] = Removed(job.state if job.state in FINAL else "CANCELLED", job.ended or "CANCEL", job.token)
        del self.jobs[raw_id]
        return "OK", "REMOVED"

    def purge(self) -> int:
        """How many were deleted."""
        return sum(self.delete(raw_id)[0] == "OK" for raw_id, job in list(self.jobs.items()) if job.state in ("WAITING", "DELAYED"))

    def update(self, raw_id: str, change: Change) -> Answer:
        """The word and the state after it."""
        job = self.jobs.get(raw_id)
        if job is None:
            return self._gone(raw_id)
        if job.state not in ("WAITING", "DELAYED"):
            return "WRONG_STATE", job.state
        if self.policy.is_too_large(change.payload or b""):
            return "TOO_LARGE", job.state
        if change.due_ms:
            job.state, job.order = "DELAYED", change.due_ms * 1000
        elif change.due_ms == 0 and job.state == "DELAYED":
            job.state, job.order = "WAITING", None
        self._edit(raw_id, change)
        return "OK", job.state

    def redrive(self, raw_id: str, payload: bytes) -> Answer:
        """The word and the state after it."""
        job = self.jobs.get(raw_id)
        if job is not None and self.policy.is_too_large(payload):
            return "TOO_LARGE", job.state
        word, state = self.retry(raw_id)
        if word == "OK":
            self._edit(raw_id, Change(payload=payload))
        return word, state

    def _edit(self, raw_id: str, change: Change) -> None:
        job = self.jobs[raw_id]
        if change.payload is not None and job.token and not job.ended:
            # What a worker that was lost with it says of the job that it had, is said of another now.
            job.ended = "CANCEL"
        job.change(change.of(job.content))
        self._place(raw_id)

    def resolve(self, raw_id: str, note: str) -> Answer:
        """The word and the state after it."""
        job = self.jobs.get(raw_id)
        if job is None:
            return self._gone(raw_id)
        if job.state != "FAILED":
            return "WRONG_STATE", job.state
        job.note = note
        self.touched.add(raw_id)
        return "OK", "FAILED"

    def bulk(self, verb: str, run: str, changed: set[str], ids: list[str]) -> tuple[int, int]:
        """How many jobs the run has acted on, and how many of these it has not. `changed` are those that are not as the dry run saw them."""
        acts: dict[str, Callable[[str], Answer]] = {
            "cancel": lambda raw_id: self.cancel(raw_id, 1500),
            "retry": self.retry,
            "promote": self.promote,
            "delete": self.delete,
            "resolve": lambda raw_id: self.resolve(raw_id, "all"),
        }
        done = 0
        for raw_id in dict.fromkeys(ids):
            job = self.jobs.get(raw_id)
            if job is not None and raw_id not in changed and not (job.state == "ACTIVE" and job.cancel_requested):
                done += acts[verb](raw_id)[0] == "OK"
        self.runs[run] = self.runs[run]._replace(done=self.runs[run].done + done, skipped=len(ids) - done)
        return self.runs[run].done, len(ids) - done

    def clean(self, state: str) -> int:
        """How many were forgotten."""
        ended = list(self.ended[state])
        for raw_id in ended:
            self._forget(raw_id)
        return len(ended)

    def _gone(self, raw_id: str) -> Answer:
        removed = self.removed.get(raw_id)
        return "NOT_FOUND", removed.state if removed else "UNSPECIFIED"
