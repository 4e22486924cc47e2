"""What the model of the store makes of what workers say."""

from __future__ import annotations

from tests.support.model_job import FINAL
from tests.support.model_moves import Answer, Moves

SAME_END = {"C": "COMPLETE", "F": "FAIL", "S": "SNOOZE", "R": "RELEASE", "G": "LIMIT"}
# What a worker says of a failure, by the wait that it asks for.
FAILURES = {-1: b"why", -2: b"\x0a\x04Boom\x12\x09no 'a' 17", 0: b"\x0a\x04Boom\x12\x08no 'b' 9"}
ERRORS = {-1: "", -2: "Boom", 0: "Boom"}


class Finishes(Moves):
    """Ends of attempts, and reports on their way."""

    def settle(self, kind: str, raw_id: str, token: int, argument: int) -> Answer:
        """One item. `argument` is the percent of P (in hundredths), the wait of S and G, F's wait (-1: backoff, -2: permanent), R's NO_HANDLER (1), E's time,
        L's sequence, K's sequence times two (and one, where it leaves something)."""
        job = self.jobs.get(raw_id)
        if job is None:
            removed = self.removed.get(raw_id)
            return self._over(kind, token, removed.token, removed.ended, removed.state) if removed else ("NOT_FOUND", "UNSPECIFIED")
        if token < 1:
            return "STALE_LEASE", job.state
        if job.token != token or job.state in FINAL or (job.state != "ACTIVE" and job.ended):
            return self._over(kind, token, job.token, job.ended, job.state)
        if kind in SAME_END:
            return self._finish(kind, raw_id, argument)
        if job.state != "ACTIVE":
            return "STALE_LEASE", job.state
        self._report(kind, raw_id, argument)
        return "OK", "ACTIVE"

    @staticmethod
    def _over(kind: str, token: int, last_token: int, ended: str, state: str) -> Answer:
        if token != last_token:
            return "STALE_LEASE", "UNSPECIFIED"
        if ended == "CANCEL":
            return "CANCELLED", state
        return ("OK" if ended == SAME_END.get(kind) else "ALREADY_FINISHED"), state

    def _finish(self, kind: str, raw_id: str, argument: int) -> Answer:
        job = self.jobs[raw_id]
        if job.state == "ACTIVE":
            self._leave_session(raw_id)
        else:
            job.attempt += 1
        job.lost = False
        if kind != "R":
            job.losses = 0
        if kind in "SRG":
            job.attempt -= 1
        if kind == "F":
            job.happened["failure"] = FAILURES[argument]
        if kind == "C":
            job.ended, job.happened["result"], job.checkpoint = "COMPLETE", b"result", b""
            self._end(raw_id, "COMPLETED")
        elif job.cancel_requested:
            self._end_cancelled(raw_id)
            return "CANCELLED", job.state
        else:
            job.ended = SAME_END[kind]
            {"F": self._fail, "S": self._snooze, "G": self._limit_group, "R": self._release}[kind](raw_id, argument)
        return "OK", job.state

    def _fail(self, raw_id: str, argument: int, error: str = "") -> None:
        job = self.jobs[raw_id]
        job.alone = False
        is_last = job.attempt >= self.policy.attempts_of(job.content) or self.policy.is_permanent(job.content, error or ERRORS[argument])
        if argument == -2 or is_last:
            self._end(raw_id, "FAILED")
        elif argument >= 0:
            self._delay(raw_id, argument, argument)
        else:
            self._delay(raw_id, *self.policy.wait_after(job))

    def _snooze(self, raw_id: str, argument: int) -> None:
        self.jobs[raw_id].alone = False
        self._delay(raw_id, argument, argument)

    def _limit_group(self, raw_id: str, argument: int) -> None:
        job = self.jobs[raw_id]
        if not job.content.group:
            self._snooze(raw_id, argument)
            return
        job.alone = False
        self.groups[job.content.group].frozen = True
        self._wait(raw_id)

    def _release(self, raw_id: str, argument: int) -> None:
        job = self.jobs[raw_id]
        if not argument:
            self._wait(raw_id)
            return
        job.returns += 1
        if job.returns == 5:
            job.happened["failure"] = b"NO_HANDLER"
            self._end(raw_id, "FAILED")
        else:
            self._delay(raw_id, 200 * job.returns, 200 * job.returns)

    def _report(self, kind: str, raw_id: str, argument: int) -> None:
        job = self.jobs[raw_id]
        if kind == "P":
            job.progress = max(argument, job.progress or 0)
            job.happened.pop("progress", None)
            if argument % 2:
                job.happened["progress"] = b"note"
            self.touched.add(raw_id)
        elif kind == "X" and job.cancel_requested and not job.cancel_delivered:
            job.cancel_delivered = True
            self.touched.add(raw_id)
        elif kind == "E":
            row = self.sessions[job.session]
            row.deadline = max(row.deadline, self.clock + argument)
        elif kind == "L" and (job.logged[0] != job.token or job.logged[1] < argument):
            job.log.append((len(job.log) + 1, job.attempt, f"line {argument}"))
            job.logged = (job.token, argument)
        elif kind == "K" and (job.left[0] != job.token or job.left[1] <= argument // 2):
            job.checkpoint = b"page %d" % argument if argument % 2 else b""
            job.left = (job.token, argument // 2)
