"""What `jobwire jobs explain` prints."""

from collections.abc import Iterator

from jobwire_client import Explanation, Hold, Holder

from jobwire_cli.output import Members, date, filled, seconds


def explanation_lines(found: Explanation) -> Iterator[str]:
    """The summary, and below it the workers that are in the way."""
    yield f"{found.name}: {found.summary}"
    for hold in found.holds:
        if hold.reason != "active":
            yield from (f"  {_load(holder)}" for holder in hold.holders)


def explanation_json(found: Explanation) -> Members:
    """Its members, as REST has them."""
    return {"name": found.name, "summary": found.summary, "state": found.state, "holds": [_hold_json(hold) for hold in found.holds]}


def _hold_json(hold: Hold) -> Members:
    before = {"jobsBefore": hold.jobs_before, "jobsBeforeByPriority": hold.jobs_before_by_priority} if hold.jobs_before else {}
    holders = {"holders": [_holder_json(holder) for holder in hold.holders], "holderCount": hold.holder_count} if hold.holders else {}
    return {
        **filled(reason=hold.reason, message=hold.message, until=date(hold.until), since=date(hold.since)),
        **before,
        **holders,
        **filled(
            keptFor=hold.kept_for or None, cancelStage=hold.cancel_stage or None, cancelLeft=seconds(hold.cancel_left), leaseLeft=seconds(hold.lease_left)
        ),
    }


def _holder_json(holder: Holder) -> Members:
    members = {"session": holder.session, "worker": holder.worker, "active": holder.active, "concurrency": holder.concurrency}
    return {**members, **({"alone": True} if holder.alone else {})}


def _load(holder: Holder) -> str:
    of = f" of {holder.concurrency}" if holder.concurrency else ""
    return f"{holder.worker or holder.session} holds {holder.active}{of}{', kept for one job alone' if holder.alone else ''}"
