"""Why a job does not run, from what the store knows of it and of the workers of its queue.

Each rule is a function that gives what it holds the job by; a later rule is one more function in the list of its state.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb

from jobwire_broker.rules.hands import Hand, is_short
from jobwire_broker.rules.limiting import groups_hold, limit_holds, with_holders
from jobwire_broker.store import codec
from jobwire_broker.store.answers import Explained

_FAILED, _SNOOZED, _RELEASED, _TIMED_OUT, _LIMITED = 2, 3, 4, 6, 7
State = job_pb2.JobState


def explain(queue: str, raw_id: bytes, found: Explained, hands: Sequence[Hand]) -> pb.ExplainJobResponse:
    """Everything that holds the job, in the order in which each must give way."""
    header = codec.header_of(found.record)
    job = codec.job_from_record(queue, raw_id, found.record)
    if header.state == State.JOB_STATE_ACTIVE:
        holds = [_active(job, found, hands)]
    elif header.state in codec.FINAL_STATES:
        holds = [_final(job)]
    else:
        holds = [*_due(job, header, found), *_delivery(queue, job, header, found, hands)] or [_next()]
    summary = "; ".join(hold.message for hold in holds)
    return pb.ExplainJobResponse(summary=f"{summary[0].upper()}{summary[1:]}.", state=job.state, holds=holds)


def _delivery(queue: str, job: job_pb2.Job, header: codec.Header, found: Explained, hands: Sequence[Hand]) -> list[pb.JobHold]:
    """What would keep any job of its line from a worker, then what is before this one."""
    holds = []
    if found.paused:
        holds.append(pb.JobHold(reason=pb.HOLD_REASON_QUEUE_PAUSED, message=f"the queue {queue} is paused"))
    if found.judged is not None:
        holds += limit_holds(queue, job, found, hands)
    takers = [hand for hand in hands if hand.takes_more]
    if not takers:
        holds.append(pb.JobHold(reason=pb.HOLD_REASON_NO_WORKER, message=f"no worker is connected that takes jobs from {queue}"))
    if found.judged is not None and found.judged.groups_before:
        holds.append(groups_hold(found.judged))
    if found.before > 0:
        holds.append(_before(found))
    if header.flags & codec.FLAG_ALONE:
        holds.append(_alone(header, takers))
    elif takers and header.state == State.JOB_STATE_WAITING and is_short(takers):
        holds.append(with_holders(pb.HOLD_REASON_NO_CREDIT, f"{_workers(len(takers))} of {queue} {_has(len(takers))} all the jobs wanted", takers))
    return holds


def _due(job: job_pb2.Job, header: codec.Header, found: Explained) -> list[pb.JobHold]:
    if job.state != State.JOB_STATE_DELAYED:
        return []
    left_us = header.order - found.now_us
    when = f"in {_span(left_us)}" if left_us > 0 else "and is about to be moved"
    return [pb.JobHold(reason=pb.HOLD_REASON_NOT_DUE, message=f"it is due at {job.due_time.ToJsonString()}, {when}{_cause(header)}", until=job.due_time)]


def _cause(header: codec.Header) -> str:
    """Why it is delayed."""
    if header.flags & codec.FLAG_LOST:
        return f", after its worker was lost ({header.losses} in a row)"
    if header.ended == _FAILED:
        return f", after attempt {header.attempt} of {header.attempts} failed"
    if header.ended == _TIMED_OUT:
        return f", after attempt {header.attempt} of {header.attempts} ran out of time"
    if header.ended == _SNOOZED:
        return ", as its handler asked"
    if header.ended == _LIMITED:
        return ", after its handler said that it is limited"
    if header.ended == _RELEASED:
        return f", after {header.returns} of 5 workers had no handler of its name" if header.returns else ", after its worker handed it back"
    return ""


def _before(found: Explained) -> pb.JobHold:
    by_priority, earlier = found.before_by_priority, found.before - found.before_by_priority
    parts = [f"{by_priority} by priority"] * bool(by_priority) + [f"{earlier} by age"] * bool(earlier)
    verb = "job goes" if found.before == 1 else "jobs go"
    return pb.JobHold(
        reason=pb.HOLD_REASON_JOBS_BEFORE,
        message=f"{found.before} {verb} before it ({', '.join(parts)})",
        jobs_before=found.before,
        jobs_before_by_priority=by_priority,
    )


def _alone(header: codec.Header, takers: Sequence[Hand]) -> pb.JobHold:
    why = f"it goes alone to a worker that holds no other job of its queue, since {header.losses} workers were lost with it"
    kept = [hand for hand in takers if hand.alone]
    busy = kept or [hand for hand in takers if hand.held]
    if kept:
        why += f"; {kept[0].worker or kept[0].session.hex()} is kept for that and still holds {kept[0].held}"
    return with_holders(pb.HOLD_REASON_DELIVERED_ALONE, why, busy)


def _next() -> pb.JobHold:
    message = "nothing holds it: it is next, and a worker has room"
    return pb.JobHold(reason=pb.HOLD_REASON_NONE, message=message)


def _active(job: job_pb2.Job, found: Explained, hands: Sequence[Hand]) -> pb.JobHold:
    holders = [hand for hand in hands if hand.session == found.holder]
    who = next((hand.worker or hand.session.hex() for hand in holders), "a worker that is gone")
    message = f"it runs on {who} since {job.start_time.ToJsonString()}, attempt {job.attempt} of {job.max_attempts}"
    if job.cancel_requested:
        stage = "confirmed by its worker" if job.cancel_delivered else "not yet confirmed by its worker"
        message += f"; a cancel was asked for, {stage}, and is forced in {_span(found.cancel_left_ms * 1000)}"
    hold = with_holders(pb.HOLD_REASON_ACTIVE, message, holders)
    hold.since.CopyFrom(job.start_time)
    if found.lease_left_ms >= 0:
        hold.lease_left.FromMilliseconds(found.lease_left_ms)
    if job.cancel_requested:
        hold.cancel_stage = job_pb2.CANCEL_STAGE_DELIVERED if job.cancel_delivered else job_pb2.CANCEL_STAGE_REQUESTED
        hold.cancel_left.FromMilliseconds(max(0, found.cancel_left_ms))
    return hold


def _final(job: job_pb2.Job) -> pb.JobHold:
    word = State.Name(job.state).removeprefix("JOB_STATE_").lower()
    failure = ": ".join(filter(None, (job.failure.type, job.failure.message))) if job.state == State.JOB_STATE_FAILED else ""
    message = f"it has ended as {word} at {job.finish_time.ToJsonString()}{f' ({failure[:200]})' if failure else ''}"
    return pb.JobHold(reason=pb.HOLD_REASON_FINAL, message=message, since=job.finish_time)


def _workers(count: int) -> str:
    return "the only worker" if count == 1 else f"all {count} workers"


def _has(count: int) -> str:
    return "has" if count == 1 else "have"


def _span(us: int) -> str:
    return f"{max(0, us) / 1_000_000:.1f} s"
