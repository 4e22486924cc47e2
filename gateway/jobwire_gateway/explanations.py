"""Why a job does not run, as JSON. The decisions are those of jobs.py; words of reasons and stages are in lower case and without their prefix, too."""

from google.protobuf.duration_pb2 import Duration
from jobwire.v1.job_pb2 import CancelStage
from jobwire.v1.job_service_pb2 import ExplainJobResponse, HoldReason, JobHold, JobHolder

from jobwire_gateway.jobs import state_word

_REASONS: dict[int, str] = {number: name.removeprefix("HOLD_REASON_").lower() for name, number in HoldReason.items()}
_STAGES: dict[int, str] = {number: name.removeprefix("CANCEL_STAGE_").lower() for name, number in CancelStage.items()}


def explanation_json(answer: ExplainJobResponse) -> dict[str, object]:
    """An explanation's members."""
    return {"summary": answer.summary, "state": state_word(answer.state), "holds": [_hold(hold) for hold in answer.holds]}


def _hold(hold: JobHold) -> dict[str, object]:
    members: dict[str, object] = {"reason": _REASONS.get(hold.reason, hold.reason), "message": hold.message}
    if hold.HasField("until"):
        members["until"] = hold.until.ToJsonString()
    if hold.HasField("since"):
        members["since"] = hold.since.ToJsonString()
    if hold.jobs_before:
        members |= {"jobsBefore": hold.jobs_before, "jobsBeforeByPriority": hold.jobs_before_by_priority}
    if hold.holders:
        members |= {"holders": [_holder(holder) for holder in hold.holders], "holderCount": hold.holder_count}
    if hold.kept_for:
        members["keptFor"] = hold.kept_for
    if hold.cancel_stage:
        members["cancelStage"] = _STAGES.get(hold.cancel_stage, hold.cancel_stage)
    lengths: dict[str, Duration | None] = {
        "cancelLeft": hold.cancel_left if hold.HasField("cancel_left") else None,
        "leaseLeft": hold.lease_left if hold.HasField("lease_left") else None,
    }
    return members | {name: length.ToJsonString() for name, length in lengths.items() if length is not None}


def _holder(holder: JobHolder) -> dict[str, object]:
    members: dict[str, object] = {"session": holder.session, "worker": holder.worker, "active": holder.active, "concurrency": holder.concurrency}
    return members | ({"alone": True} if holder.alone else {})
