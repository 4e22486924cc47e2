"""What the model of the store consists of, and how a job goes from one state to the next: where it leaves, and what it becomes there."""

from __future__ import annotations

from tests.support.model_identity import Identities
from tests.support.model_job import FINAL, Group, Job, Removed, Session
from tests.support.model_policy import Policy
from tests.support.queue_state import RunView

Answer = tuple[str, str]
#: Dates at which a job expires: long ago, and never in a test.
PAST, FUTURE = 1, 9_000_000_000_000


class Moves:
    """One queue."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.sessions: dict[str, Session] = {}
        self.removed: dict[str, Removed] = {}
        self.ended: dict[str, list[str]] = {state: [] for state in FINAL}
        self.totals = {"COMPLETED": 0, "FAILED": 0}
        self.identities = Identities()
        self.aliases: dict[str, str] = {}
        """Ids of calls that were answered with another job, and that answer."""
        self.runs: dict[str, RunView] = {}
        self.untold: dict[tuple[str, int], tuple[str, Session]] = {}
        """Attempts that were ended at their deadline, by job and token, and whose worker has not been told: its session."""
        self.groups: dict[str, Group] = {}
        self.time = self.express_time = self.paid = 0.0
        """The virtual times of groups, and the tag of the jobs that have none."""
        self.clock = 0
        self.paused = False
        self.hungry = False
        self.solo = ""
        self.touched: set[str] = set()
        """Jobs whose revision grows with the call that is under way."""
        self.policy, self.policy_text = Policy(), ""
        self._grown: set[str] = set()
        """Final states that are to be kept within their count when the call ends."""
        self._added = False
        self._ready: set[str] = set()
        """The groups that could start a job when the call began."""

    def _order(self, raw_id: str) -> int:
        order = self.jobs[raw_id].order
        assert order is not None
        return order

    def _in(self, state: str) -> list[str]:
        return [raw_id for raw_id, job in self.jobs.items() if job.state == state]

    def _waiting(self, *, alone: bool) -> list[str]:
        found = [raw_id for raw_id in self._in("WAITING") if self.jobs[raw_id].alone == alone]
        return sorted(found, key=lambda raw_id: (self.jobs[raw_id].priority, self._order(raw_id), raw_id))

    def _asked(self) -> list[str]:
        return [raw_id for raw_id in self._in("ACTIVE") if self.jobs[raw_id].cancel_requested]

    def held(self, session: str) -> list[str]:
        """The jobs that a session holds, in the order in which it got them."""
        return sorted((raw_id for raw_id in self._in("ACTIVE") if self.jobs[raw_id].session == session), key=lambda raw_id: self.jobs[raw_id].token)

    def _may_expire(self, raw_id: str) -> bool:
        job = self.jobs[raw_id]
        return bool(job.content.expires_at or job.expires_ms) and job.state in ("WAITING", "DELAYED") and not job.token and not job.ended

    def _expiry(self, raw_id: str) -> int:
        return self.jobs[raw_id].content.expires_at or self._order(raw_id) // 1000 + self.jobs[raw_id].expires_ms

    def _has_expired(self, raw_id: str) -> bool:
        return self._may_expire(raw_id) and self.jobs[raw_id].content.expires_at == PAST

    def _leave_session(self, raw_id: str) -> None:
        job = self.jobs[raw_id]
        row = self.sessions[job.session]
        if row.solo == raw_id:
            row.solo = ""
        job.session, job.deadline = "", 0

    def _place(self, raw_id: str) -> None:
        job = self.jobs[raw_id]
        if job.timed:
            job.expires_ms = self.policy.expires_in(job.content)
        if job.state == "WAITING" and (job.alone or job.content.group in self._ready | {""}):
            self._added = True
        self.touched.add(raw_id)

    def _wait(self, raw_id: str) -> None:
        self.jobs[raw_id].state = "WAITING"
        self._place(raw_id)

    def _delay(self, raw_id: str, low_ms: int, high_ms: int) -> None:
        job = self.jobs[raw_id]
        job.state, job.order, job.wait_ms = "DELAYED", None, (low_ms, high_ms)
        self._place(raw_id)

    def _end(self, raw_id: str, state: str) -> None:
        job = self.jobs[raw_id]
        job.state, job.total_deadline = state, 0
        self.identities.free(raw_id, job.content)
        if state == "COMPLETED":
            job.progress = 10_000
        if state in self.totals:
            self.totals[state] += 1
        self.ended[state].append(raw_id)
        # What is not kept makes no room necessary; completed jobs are counted all the same.
        if job.content.retention_ms != 0 or state == "COMPLETED":
            self._grown.add(state)
        self.touched.add(raw_id)

    def _forget(self, raw_id: str) -> None:
        job = self.jobs.pop(raw_id)
        self.ended[job.state].remove(raw_id)
        self.removed[raw_id] = Removed(job.state, job.ended, job.token)

    def _end_cancelled(self, raw_id: str) -> None:
        self.jobs[raw_id].ended = self.jobs[raw_id].ended or "CANCEL"
        self._end(raw_id, "CANCELLED")

    def _put_back(self, raw_id: str) -> None:
        job = self.jobs[raw_id]
        self._leave_session(raw_id)
        job.attempt -= 1
        if job.cancel_requested:
            self._end_cancelled(raw_id)
        else:
            self._wait(raw_id)

    def _lose(self, raw_id: str) -> None:
        job = self.jobs[raw_id]
        self._leave_session(raw_id)
        job.attempt -= 1
        job.losses += 1
        if job.cancel_requested:
            self._end_cancelled(raw_id)
        elif job.losses >= 3 and job.alone:
            job.ended, job.happened["failure"] = "FAIL", b"POISON"
            self._end(raw_id, "FAILED")
        elif job.losses >= 2:
            job.alone = job.lost = True
            self._delay(raw_id, 1000 * 2 ** (job.losses - 2), 1000 * 2 ** (job.losses - 2))
        else:
            job.lost = True
            self._wait(raw_id)
