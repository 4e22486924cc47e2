"""The store's rules once more, in plain Python: what RULES of a job's life say, without indexes, batches or bytes.

The model decides everything but the numbers: it is told each new token and each new order by whoever runs it beside a store (`learn`), and says what they may
be. `expected` is the whole state that the store must then have.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.support.model_identity import Holder, Identities, waits_of
from tests.support.model_job import FINAL, Change, Content, Job, Removed, Session
from tests.support.model_policy import Policy
from tests.support.queue_state import Numbers, QueueState, RunView, SessionView, session_bytes

SESSION_MS = 5_000
TICK_MS = 1_000
SAME_END = {"C": "COMPLETE", "F": "FAIL", "S": "SNOOZE", "R": "RELEASE", "G": "RELEASE"}
# What a worker says of a failure, by the wait that it asks for.
FAILURES = {-1: b"why", -2: b"\x0a\x04Boom\x12\x09no 'a' 17", 0: b"\x0a\x04Boom\x12\x08no 'b' 9"}
ERRORS = {-1: "", -2: "Boom", 0: "Boom"}
Answer = tuple[str, str]
#: Dates at which a job expires: long ago, and never in a test.
PAST, FUTURE = 1, 9_000_000_000_000
OVER = {"CANCEL": "CANCELLED", "TIMEOUT": "ALREADY_FINISHED"}


class Model:
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

    # What the store must show -------------------------------------------------------------------------------------------------------------------------

    def expected(self) -> QueueState:
        """The whole state."""
        state = QueueState(paused=self.paused, hungry=self.hungry, solo=self.solo, policy=self.policy_text)
        state.jobs = {raw_id: job.view() for raw_id, job in self.jobs.items()}
        state.waiting = self._waiting(alone=False)
        state.alone = self._waiting(alone=True)
        state.delayed = sorted(self._in("DELAYED"), key=lambda raw_id: (self._order(raw_id), raw_id))
        state.active = {raw_id: self.jobs[raw_id].session for raw_id in self._in("ACTIVE")}
        state.completed, state.failed, state.cancelled, state.expired = (self._kept(name, own=False) for name in FINAL)
        state.own = {name: own for name in FINAL if (own := self._kept(name, own=True))}
        state.identities = self.identities.view()
        state.payloads = {raw_id: job.content.payload for raw_id, job in self.jobs.items()}
        state.expiring = sorted((raw_id for raw_id in self.jobs if self._may_expire(raw_id)), key=lambda raw_id: (self._expiry(raw_id), raw_id))
        for (raw_id, _), (session, row) in self.untold.items():
            state.untold.setdefault(raw_id, []).append(session if self.sessions.get(session) is row else "")
            state.untold[raw_id].sort()
        state.sessions = {name: SessionView(session.epoch, session.solo) for name, session in self.sessions.items()}
        state.timers = {f"session {name}": session.deadline - self.clock for name, session in self.sessions.items()}
        for raw_id in self._asked():
            job = self.jobs[raw_id]
            state.timers[f"cancel {raw_id}"] = job.cancel_deadline - self.clock
            if not job.cancel_delivered:
                state.cancels[raw_id] = job.session
        for raw_id, job in self.jobs.items():
            if job.deadline:
                state.timers[f"attempt {raw_id}"] = job.deadline - self.clock
            if job.total_deadline:
                state.timers[f"total {raw_id}"] = job.total_deadline - self.clock
        state.logs = {raw_id: list(job.log) for raw_id, job in self.jobs.items() if job.log}
        state.checkpoints = {raw_id: job.checkpoint for raw_id, job in self.jobs.items() if job.checkpoint}
        state.ring = {raw_id: (removed.state, removed.ended) for raw_id, removed in self.removed.items()}
        state.ring |= dict.fromkeys(self.aliases, ("UNSPECIFIED", ""))
        state.notes = {raw_id: job.note for raw_id, job in self.jobs.items() if job.note is not None}
        state.runs = dict(self.runs)
        state.completed_total, state.failed_total = self.totals["COMPLETED"], self.totals["FAILED"]
        return state

    def learn_deadlines(self, timers: dict[str, int]) -> None:
        """Take over what was left of the time of leases that were adopted, once it is what it may be."""
        for raw_id, job in self.jobs.items():
            if job.deadline is None:
                left = timers[f"attempt {raw_id}"]
                assert 1_000 <= left <= max(1_000, self.policy.timeouts_of(job.content)[0])
                job.deadline = self.clock + left

    def learn(self, numbers: dict[str, Numbers], before_ms: int, after_ms: int) -> None:
        """Take over the orders that the store gave in a call between these dates, once they are what they may be."""
        for raw_id, job in self.jobs.items():
            given = numbers[raw_id].order
            if job.order is None:
                low, high = job.wait_ms or (0, 0)
                assert (before_ms + low) * 1000 <= given <= (after_ms + high + 1) * 1000, f"{raw_id} has an order of another time"
                job.order, job.wait_ms = given, None
            assert given == job.order, f"{raw_id} lost its place"
            assert numbers[raw_id].token == job.token

    def _order(self, raw_id: str) -> int:
        order = self.jobs[raw_id].order
        assert order is not None
        return order

    def _kept(self, state: str, *, own: bool) -> list[str]:
        """The ended jobs that say for themselves how long they are kept, or the others."""
        return [raw_id for raw_id in self.ended[state] if (self.jobs[raw_id].content.retention_ms is not None) == own]

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

    # Calls --------------------------------------------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A call begins."""
        self.touched.clear()
        self._grown.clear()
        self._added = False

    def end(self) -> None:
        """It ends: what is not to be kept goes, and whoever found nothing before is told of what there is now."""
        for raw_id, job in list(self.jobs.items()):
            if job.state in FINAL and job.content.retention_ms == 0:
                self._forget(raw_id)
        for state in self._grown:
            for raw_id in self.ended[state][: -self.policy.kept or None] if self.policy.kept is not None else ():
                self._forget(raw_id)
        if self._added and self.hungry and any(job.state == "WAITING" for job in self.jobs.values()):
            self.hungry = False

    def enqueue(self, raw_id: str, content: Content) -> str:
        """The word."""
        content = self.policy.named(content)
        if raw_id in self.jobs:
            return "MADE" if (self.jobs[raw_id].made_of or self.jobs[raw_id].content) == content else "EXISTS"
        if raw_id in self.removed:
            return "MADE"
        if raw_id in self.aliases:
            return self.aliases[raw_id]
        refused = self._refuse(content)
        if refused == "TOO_LARGE" and content.identity[:1] == b"d":
            return refused
        word = self._answer_with_another(raw_id, content) or refused
        if word is None:
            self._make(raw_id, content)
        return word or "MADE"

    def _refuse(self, content: Content) -> str | None:
        if self.policy.is_too_large(content.payload):
            return "TOO_LARGE"
        unfinished = sum(job.state not in FINAL for job in self.jobs.values())
        return "FULL" if self.policy.max_depth and unfinished >= self.policy.max_depth else None

    def _make(self, raw_id: str, content: Content) -> None:
        job = self.jobs[raw_id] = Job(content)
        job.timed = content.is_timed or bool(self.policy.expires_ms)
        delay_ms = content.delay_ms
        if content.identity:
            self.identities.take(raw_id, content)
            if content.identity[:1] == b"d":
                delay_ms = waits_of(content.identity)[0]
        if delay_ms:
            self._delay(raw_id, delay_ms, delay_ms)
        else:
            self._wait(raw_id)

    def _answer_with_another(self, raw_id: str, content: Content) -> str | None:
        holder = self.identities.holder(content)
        if holder is None:
            return None
        kind = content.identity[:1]
        if kind == b"d" and not self._replace(holder, content):
            return None
        if kind == b"k" and holder.signature != content.payload:
            return f"CONFLICT {holder.raw_id}"
        if holder.raw_id == raw_id:
            return "MADE"
        self.aliases[raw_id] = f"{'REPLACED' if kind == b'd' else 'FOUND'} {holder.raw_id}"
        return self.aliases[raw_id]

    def _replace(self, holder: Holder, content: Content) -> bool:
        """Let the job that waits for the end of a debounce be the one that is asked for now. False when it has started."""
        job = self.jobs[holder.raw_id]
        if job.state not in ("WAITING", "DELAYED") or job.token:
            return False
        delay_ms, most_ms = waits_of(content.identity)
        job.change(content)
        if most_ms and holder.is_long_ago:
            job.order = job.order if job.state == "WAITING" else None
            self._wait(holder.raw_id)
        else:
            self._delay(holder.raw_id, delay_ms, delay_ms)
        return True

    def lease(self, session: str, epoch: int, count: int) -> tuple[str, list[str]]:
        """The word, and the jobs; their tokens are told by `leased`."""
        row = self.sessions.get(session)
        if row is None:
            return "NO_SESSION", []
        if row.epoch != epoch:
            return "SESSION_MOVED", []
        if self.paused or row.solo:
            return "OK", []
        alone = self._waiting(alone=True)
        if alone:
            if not self.held(session):
                self.solo = ""
                row.solo = alone[0]
                self._lease(alone[0], session)
                return "OK", alone[:1]
            if self.solo in ("", session) or self.solo not in self.sessions:
                self.solo = session
                return "OK", []
        chosen: list[str] = []
        for raw_id in self._waiting(alone=False):
            if len(chosen) == count:
                break
            if self._has_expired(raw_id):
                self._end(raw_id, "EXPIRED")
            else:
                chosen.append(raw_id)
                self._lease(raw_id, session)
        if len(chosen) < count:
            self.hungry = True
        return "OK", chosen

    def leased(self, raw_id: str, token: int) -> None:
        """The store gave this token."""
        assert token > max(job.token for job in self.jobs.values()), "a token that is not greater than all before"
        self.jobs[raw_id].token = token

    def _lease(self, raw_id: str, session: str) -> None:
        job = self.jobs[raw_id]
        job.state, job.session, job.progress, job.ended = "ACTIVE", session, None, ""
        job.lost = False
        job.attempt += 1
        job.happened.pop("progress", None)
        timeout_ms, total_ms = self.policy.timeouts_of(job.content)
        if timeout_ms:
            job.deadline = self.clock + timeout_ms
        if total_ms and not job.total_deadline:
            job.total_deadline = self.clock + total_ms
        job.timed = job.timed or bool(timeout_ms or total_ms)
        self.touched.add(raw_id)

    def _may_expire(self, raw_id: str) -> bool:
        job = self.jobs[raw_id]
        return bool(job.content.expires_at or job.expires_ms) and job.state in ("WAITING", "DELAYED") and not job.token and not job.ended

    def _expiry(self, raw_id: str) -> int:
        return self.jobs[raw_id].content.expires_at or self._order(raw_id) // 1000 + self.jobs[raw_id].expires_ms

    def _has_expired(self, raw_id: str) -> bool:
        return self._may_expire(raw_id) and self.jobs[raw_id].content.expires_at == PAST

    def attach(self, session: str, epoch: int, held: list[tuple[str, int]]) -> list[Answer] | None:
        """The words for the held jobs; None for an older stream."""
        row = self.sessions.get(session)
        if row is not None and epoch < row.epoch:
            return None
        if row is None:
            row = self.sessions[session] = Session(epoch, 0)
        row.epoch, row.deadline = epoch, self.clock + SESSION_MS
        answers = [self._compare(session, raw_id, token) for raw_id, token in held]
        listed = dict(held)
        for raw_id in self.held(session):
            if listed.get(raw_id) != self.jobs[raw_id].token:
                self._put_back(raw_id)
        return answers

    def _compare(self, session: str, raw_id: str, token: int) -> Answer:
        job = self.jobs.get(raw_id)
        if job is None:
            removed = self.removed.get(raw_id)
            if removed is None:
                return "NOT_FOUND", "UNSPECIFIED"
            if removed.token != token:
                return "STALE_LEASE", removed.state
            return OVER.get(removed.ended, "OK"), removed.state
        if job.token != token or token < 1:
            return "STALE_LEASE", job.state
        if job.state == "ACTIVE":
            return ("HELD" if job.session == session else "STALE_LEASE"), "ACTIVE"
        if not job.ended:
            self._adopt(raw_id, session)
            return "HELD", "ACTIVE"
        return OVER.get(job.ended, "OK"), job.state

    def _adopt(self, raw_id: str, session: str) -> None:
        job = self.jobs[raw_id]
        job.state, job.session = "ACTIVE", session
        job.deadline = None if job.timed and self.policy.timeouts_of(job.content)[0] else 0
        job.attempt += 1
        job.losses -= job.lost
        job.lost = False
        if job.losses < 2:
            job.alone = False
        self.touched.add(raw_id)

    def detach(self, session: str, epoch: int) -> None:
        """A goodbye."""
        row = self.sessions.get(session)
        if row is not None and row.epoch == epoch:
            for raw_id in self.held(session):
                self._put_back(raw_id)
            del self.sessions[session]

    # Finishes -----------------------------------------------------------------------------------------------------------------------------------------

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
            {"F": self._fail, "S": self._snooze, "G": self._snooze, "R": self._release}[kind](raw_id, argument)
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

    # Time ---------------------------------------------------------------------------------------------------------------------------------------------

    def forget_removed(self) -> None:
        """Minutes pass, and nobody knows of jobs that were removed any more."""
        self.removed.clear()
        self.aliases.clear()

    # Moves --------------------------------------------------------------------------------------------------------------------------------------------

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
        if job.state == "WAITING":
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

    # The pulse ----------------------------------------------------------------------------------------------------------------------------------------

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

    # Verbs --------------------------------------------------------------------------------------------------------------------------------------------

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
