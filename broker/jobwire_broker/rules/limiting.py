"""What limits, groups and labels hold a job by, from what the store says of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb

from jobwire_broker.names import job_path
from jobwire_broker.rules.hands import Hand
from jobwire_broker.store.answers import Explained, Judged, KeptRoom

MAX_HOLDERS = 100


def limit_holds(queue: str, job: job_pb2.Job, found: Explained, hands: Sequence[Hand]) -> list[pb.JobHold]:
    """All of them, those of the queue first."""
    judged = found.judged
    assert judged is not None
    holds = []
    if judged.group_paused:
        holds.append(pb.JobHold(reason=pb.HOLD_REASON_GROUP_PAUSED, message=f"its group {judged.group} is paused"))
    dates = [(f"the queue {queue}", judged.queue_opens), (f"its group {judged.group}", judged.group_opens), (f"its job name {job.job_name}", judged.name_opens)]
    for what, date in dates:
        if date == math.inf:
            if not (judged.group_paused and what == dates[1][0]):
                holds.append(_full(what, job.units, judged, hands))
        elif date > found.now_us / 1000:
            holds.append(_limited(what, date))
    holds += [_room_kept(queue, job, judged.group, kept) for kept in judged.kept]
    if not judged.labeled:
        labels = ", ".join(f"{key}={value}" for key, value in sorted(job.required_labels.items()))
        holds.append(pb.JobHold(reason=pb.HOLD_REASON_NO_LABELED_WORKER, message=f"no connected worker of {queue} has the labels that it requires ({labels})"))
    return holds


def groups_hold(judged: Judged) -> pb.JobHold:
    """Other groups have their turn."""
    verb = "group goes" if judged.groups_before == 1 else "groups go"
    return pb.JobHold(reason=pb.HOLD_REASON_GROUPS_BEFORE, message=f"{judged.groups_before} {verb} before its own")


def with_holders(reason: pb.HoldReason.ValueType, message: str, hands: Sequence[Hand]) -> pb.JobHold:
    """A hold with the workers that must give way."""
    holders = [
        pb.JobHolder(session=hand.session.hex(), worker=hand.worker, active=hand.active, concurrency=hand.concurrency, alone=hand.alone)
        for hand in hands[:MAX_HOLDERS]
    ]
    return pb.JobHold(reason=reason, message=message, holders=holders, holder_count=len(hands))


def _full(what: str, units: int, judged: Judged, hands: Sequence[Hand]) -> pb.JobHold:
    """`active` of these holders is how many jobs they hold that count."""
    counting = [replace(hand, active=judged.holders[hand.session]) for hand in hands if hand.session in judged.holders]
    who = ", ".join(f"{hand.worker or hand.session.hex()} ({hand.active})" for hand in counting[:3])
    lacks = f"has no room for its {units} units beside" if units > 1 else "is used up by"
    others = " and others" if len(counting) > 3 else ""
    message = f"the concurrency limit of {what} {lacks} {who}{others}" if who else f"the concurrency limit of {what} is used up"
    return with_holders(pb.HOLD_REASON_CONCURRENCY_LIMITED, message, counting)


def _room_kept(queue: str, job: job_pb2.Job, group: str, kept: KeptRoom) -> pb.JobHold:
    what = {"queue": f"the queue {queue}", "group": f"its group {group}", "name": f"its job name {job.job_name}"}[kept.what]
    name = job_path(queue, kept.raw_id)
    why = " and ".join(["goes alone"] * kept.alone + [f"needs {kept.units} units"] * (kept.units > 1)) or "was passed by many"
    message = f"the room that is left under the limit of {what} is kept for {name}, which {why}"
    return pb.JobHold(reason=pb.HOLD_REASON_ROOM_KEPT, message=message, kept_for=name)


def _limited(what: str, date_ms: float) -> pb.JobHold:
    until = Timestamp()
    until.FromMilliseconds(math.ceil(date_ms))
    return pb.JobHold(reason=pb.HOLD_REASON_RATE_LIMITED, message=f"{what} is limited until {until.ToJsonString()}", until=until)
