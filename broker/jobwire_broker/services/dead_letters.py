"""Failed jobs in groups, as the contract shows them."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import job_pb2
from jobwire.v1 import job_service_pb2 as pb

from jobwire_broker.errors import InvalidField
from jobwire_broker.names import job_path, parse_queue
from jobwire_broker.rules.filters import ALWAYS, Filter, filter_of
from jobwire_broker.rules.listing import MAX_STEPS
from jobwire_broker.rules.registry import Registry
from jobwire_broker.services.pages import make_token, page_size, read_token
from jobwire_broker.store import codec
from jobwire_broker.store.answers import FailedAlike
from jobwire_broker.store.arguments import MAX_ITEMS

#: What a group of failures may be asked for by.
_FILTERS = ("job_name", "finished_after", "finished_before")


async def list_failures(registry: Registry, request: pb.ListFailuresRequest) -> pb.ListFailuresResponse:
    """One page of groups. Raises InvalidField."""
    queue = parse_queue(request.parent, "parent")
    size = page_size(request.page_size)
    wanted = _filter_of(request.filter)
    of = f"failures/{queue}/{wanted}" if request.HasField("filter") else f"failures/{queue}"
    cursor = read_token(of, request.page_token)
    from_us, before_us = (None, None) if wanted.finished is ALWAYS else (-(-ns // 1000) for ns in wanted.finished)
    groups: list[pb.FailureGroup] = []
    steps = 0
    while True:
        limit = min(MAX_ITEMS, size - len(groups))
        cursor, total, found = await registry.store(queue).failures(cursor, limit, job_name=wanted.job_name, from_us=from_us, before_us=before_us)
        groups += [_group_of(queue, alike) for alike in found]
        steps += 1
        if not cursor or len(groups) >= size or steps >= MAX_STEPS:
            return pb.ListFailuresResponse(groups=groups, next_page_token=make_token(of, cursor), total=total)


def _filter_of(message: pb.JobFilter) -> Filter:
    """Raises InvalidField for what says nothing of a whole group."""
    for field, _ in message.ListFields():
        if field.name not in _FILTERS:
            raise InvalidField(f"filter.{field.name} can't stand here: failures are filtered by {', '.join(_FILTERS)}", field=f"filter.{field.name}")
    return filter_of(message, frozenset((job_pb2.JOB_STATE_FAILED,)))


def _group_of(queue: str, alike: FailedAlike) -> pb.FailureGroup:
    group = pb.FailureGroup(
        fingerprint=alike.fingerprint.hex(),
        count=alike.jobs,
        first_seen=_date(alike.first_us),
        last_seen=_date(alike.last_us),
        resolved=alike.resolved,
        latest=job_path(queue, alike.latest),
    )
    if alike.record:
        job = codec.job_from_record(queue, alike.latest, alike.record)
        group.job_name, group.type, group.message, group.reason = job.job_name, job.failure.type, job.failure.message, job.failure.reason
    return group


def _date(us: int) -> Timestamp:
    return Timestamp(seconds=us // 1_000_000, nanos=us % 1_000_000 * 1000)
