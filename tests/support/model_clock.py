"""What time does in the model of the store: sessions, timeouts, graces and dates that pass."""

from __future__ import annotations

from tests.support.model_finishes import Finishes
from tests.support.model_job import FINAL
from tests.support.queue_state import session_bytes

SESSION_MS = 5_000
TICK_MS = 1_000


class Clock(Finishes):
    """The pulse."""

    def pulse(self, grows_ms: int, renewals: list[tuple[str, int, int]], due: set[str]) -> tuple[list[str], list[int]]:
        """The words and held counts of (session, epoch, age). `due` are the delayed jobs whose date has come. What is kept for SHORT_MS was."""
        self.clock += grows_ms
        old = [raw_id for raw_id, job in self.jobs.items() if job.state in FINAL and self.policy.is_short(job.content)]
        words, held = [], []
        for session, epoch, age_ms in renewals:
            row = self.sessions.get(session)
            words.append("NO_SESSION" if row is None else "OK" if row.epoch == epoch else "SESSION_MOVED")
            held.append(len(self.held(session)) if words[-1] == "OK" else 0)
            if row is not None and words[-1] == "OK" and age_ms >= 0:
                row.deadline = self.clock + SESSION_MS - age_ms
        self._reap()
        for raw_id in sorted(self.jobs):
            if self._has_expired(raw_id):
                self._end(raw_id, "EXPIRED")
        for raw_id in due:
            if raw_id in self.jobs and self.jobs[raw_id].state == "DELAYED":
                self._wait(raw_id)
        for raw_id in old:
            self._forget(raw_id)
        self._grown.update(FINAL)
        return words, held

    def _reap(self) -> None:
        late: list[tuple[int, bytes, str]] = [(row.deadline, b"S" + session_bytes(name), name) for name, row in self.sessions.items()]
        late += [(self.jobs[raw_id].cancel_deadline, b"J" + self.jobs[raw_id].token.to_bytes(8, "big"), raw_id) for raw_id in self._asked()]
        for raw_id, job in self.jobs.items():
            if job.deadline:
                late.append((job.deadline, b"A" + job.token.to_bytes(8, "big") + raw_id.encode(), raw_id))
            if job.total_deadline:
                late.append((job.total_deadline, b"T" + raw_id.encode(), raw_id))
        for deadline, member, name in sorted(late):
            if deadline > self.clock:
                break
            if member[:1] in b"AT":
                self._time_out(name, is_total=member[:1] == b"T")
            elif member[:1] == b"S":
                for raw_id in self.held(name):
                    self._lose(raw_id)
                del self.sessions[name]
            elif name in self._asked():
                self._leave_session(name)
                self._end_cancelled(name)

    def _time_out(self, raw_id: str, *, is_total: bool) -> None:
        job = self.jobs[raw_id]
        if (not job.total_deadline) if is_total else (not job.deadline):
            return
        was_active = job.state == "ACTIVE"
        if was_active:
            self.untold[raw_id, job.token] = job.session, self.sessions[job.session]
            self._leave_session(raw_id)
            job.losses = 0
        job.happened["failure"] = b"TOTAL_TIMEOUT" if is_total else b"TIMEOUT"
        if was_active and job.cancel_requested:
            self._end_cancelled(raw_id)
            return
        job.ended = "TIMEOUT"
        self._fail(raw_id, -2 if is_total else -1, "TIMEOUT")

    def tell(self, named: dict[str, int]) -> set[tuple[int, str, int]]:
        """What a pulse says of timeouts to these sessions, by their place in it; what nobody can be told is forgotten."""
        alive = {key: (name, row) for key, (name, row) in self.untold.items() if self.sessions.get(name) is row}
        self.untold = {key: (name, row) for key, (name, row) in alive.items() if name not in named}
        return {(named[name], raw_id, token) for (raw_id, token), (name, _) in alive.items() if name in named}

    def forget_removed(self) -> None:
        """Minutes pass, and nobody knows of jobs that were removed any more."""
        self.removed.clear()
        self.aliases.clear()
