"""Failed jobs in groups, as the contract shows them."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import job_service_pb2 as pb

from jobwire_broker.names import job_path, parse_queue
from jobwire_broker.rules.registry import Registry
from jobwire_broker.services.pages import make_token, page_size, read_token
from jobwire_broker.store import codec
from jobwire_broker.store.queue_store import MAX_ITEMS, FailedAlike


async def list_failures(registry: Registry, request: pb.ListFailuresRequest) -> pb.ListFailuresResponse:
    """One page of groups. Raises InvalidField."""
    queue = parse_queue(request.parent, "parent")
    size = page_size(request.page_size)
    of = f"failures/{queue}"
    cursor = read_token(of, request.page_token)
    groups: list[pb.FailureGroup] = []
    while True:
        cursor, total, found = await registry.store(queue).failures(cursor, min(MAX_ITEMS, size - len(groups)))
        groups += [_group_of(queue, alike) for alike in found]
        if not cursor or len(groups) >= size:
            return pb.ListFailuresResponse(groups=groups, next_page_token=make_token(of, cursor), total=total)


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
