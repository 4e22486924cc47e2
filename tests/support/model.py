"""The store's rules once more, in plain Python: what RULES of a job's life say, without indexes, batches or bytes.

The model decides everything but the numbers: it is told each new token and each new order by whoever runs it beside a store (`learn`), and says what they may
be. `expected` is the whole state that the store must then have. Here is what makes jobs and leases; its other parts are what workers say (`model_finishes.py`),
what time does (`model_clock.py`), what callers do (`model_verbs.py`) and whose turn it is (`model_groups.py`), all by the same moves (`model_moves.py`).
"""

from __future__ import annotations

from tests.support.model_clock import SESSION_MS, Clock
from tests.support.model_groups import Groups
from tests.support.model_identity import Holder, waits_of
from tests.support.model_job import FINAL, Content, Job, Session
from tests.support.model_moves import Answer
from tests.support.model_verbs import Verbs
from tests.support.queue_state import Numbers, QueueState, SessionView

OVER = {"CANCEL": "CANCELLED", "TIMEOUT": "ALREADY_FINISHED"}


class Model(Clock, Verbs, Groups):
    """One queue."""

    # What the store must show -------------------------------------------------------------------------------------------------------------------------

    def expected(self) -> QueueState:
        """The whole state."""
        state = QueueState(paused=self.paused, hungry=self.hungry, solo=self.solo, policy=self.policy_text)
        state.jobs = {raw_id: job.view() for raw_id, job in self.jobs.items()}
        state.waiting = self.ungrouped()
        state.lines = {"l" + name: ids for name, ids in self.lines().items()}
        state.groups = self.group_views()
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

    def _kept(self, state: str, *, own: bool) -> list[str]:
        """The ended jobs that say for themselves how long they are kept, or the others."""
        return [raw_id for raw_id in self.ended[state] if (self.jobs[raw_id].content.retention_ms is not None) == own]

    # Calls --------------------------------------------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A call begins."""
        self.touched.clear()
        self._grown.clear()
        self._added = False
        self._ready = self.ready()

    def end(self) -> None:
        """It ends: what is not to be kept goes, and whoever found nothing before is told of what there is now."""
        for raw_id, job in list(self.jobs.items()):
            if job.state in FINAL and job.content.retention_ms == 0:
                self._forget(raw_id)
        for state in self._grown:
            for raw_id in self.policy.over(self.ended[state], set(self._kept(state, own=True))):
                self._forget(raw_id)
        if (self._added or self.ready() - self._ready) and self.hungry and any(job.state == "WAITING" for job in self.jobs.values()):
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
        alone = [raw_id for raw_id in self._waiting(alone=True) if not (group := self.jobs[raw_id].content.group) or self.is_open(group)]
        if alone:
            if not self.held(session):
                self.solo = ""
                row.solo = alone[0]
                self._lease(alone[0], session)
                return "OK", alone[:1]
            if self.solo in ("", session) or self.solo not in self.sessions:
                self.solo = session
                return "OK", []
        return "OK", self._lease_in_turn(session, count) if self.lines() else self._lease_plain(session, count)

    def _lease_plain(self, session: str, count: int) -> list[str]:
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
        return chosen

    def _lease_in_turn(self, session: str, count: int) -> list[str]:
        """What has expired has its turn all the same, and takes the room of another."""
        chosen: list[str] = []
        for _ in range(count):
            raw_id = self.turn()
            if raw_id is None:
                self.hungry = True
                break
            if self._has_expired(raw_id):
                self._end(raw_id, "EXPIRED")
            else:
                chosen.append(raw_id)
                self._lease(raw_id, session)
        return chosen

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
            if job.content.group and not self.has_room(job.content.group):
                return "STALE_LEASE", job.state
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
