"""Bulk runs, whoever began them and at whichever broker: what is known of each, and their stop."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from jobwire.v1 import job_service_pb2 as pb

from jobwire_broker.auth.caller import identity
from jobwire_broker.errors import NotFound, WrongState
from jobwire_broker.names import bulk_run_path, parse_bulk_run, parse_queue
from jobwire_broker.rules.registry import Registry
from jobwire_broker.services.pages import make_token, page_size, read_token
from jobwire_broker.store.answers import Run, Word

#: Of a caller's name, which a provider of tokens may make as long as it likes.
_MAX_NAME = 256


def caller_name() -> str:
    """Who calls, as runs show it; empty at a broker that asks nobody."""
    asking = identity()
    return "" if asking is None else asking.name[:_MAX_NAME]


async def list_bulk_runs(registry: Registry, request: pb.ListBulkRunsRequest) -> pb.ListBulkRunsResponse:
    """One page. Raises InvalidField."""
    queue = parse_queue(request.parent, "parent")
    size = page_size(request.page_size)
    of = f"bulkRuns/{queue}"
    cursor = read_token(of, request.page_token)
    places = {_place(run): run for run in await registry.store(queue).runs()}
    left = [place for place in sorted(places, reverse=True) if not cursor or place < cursor]
    token = make_token(of, left[size - 1]) if len(left) > size else ""
    return pb.ListBulkRunsResponse(runs=[run_of(queue, places[place]) for place in left[:size]], next_page_token=token)


async def get_bulk_run(registry: Registry, name: str) -> pb.BulkRun:
    """One run. Raises NotFound."""
    queue, number = parse_bulk_run(name)
    for run in await registry.store(queue).runs([number]):
        return run_of(queue, run)
    raise _not_found(name)


async def stop_bulk_run(registry: Registry, name: str) -> pb.BulkRun:
    """The run, stopped. Raises NotFound and WrongState."""
    queue, number = parse_bulk_run(name)
    word, run = await registry.store(queue).end_run(number, Word.STOPPED, stopped_by=caller_name())
    if run is None:
        raise _not_found(name)
    if word == Word.FINISHED:
        raise WrongState(f"can't stop {name}: it has finished", metadata={"state": "finished"})
    return run_of(queue, run)


def run_of(queue: str, run: Run) -> pb.BulkRun:
    """A run in the form of the contract."""
    found = pb.BulkRun.FromString(run.head)
    found.name = bulk_run_path(queue, run.number)
    found.state = pb.BulkRunState.Value(f"BULK_RUN_STATE_{run.state}")
    found.done, found.skipped, found.stopped_by = run.done, run.skipped, run.stopped_by
    found.start_time.CopyFrom(_date(run.begun_ms))
    if run.ended_ms:
        found.finish_time.CopyFrom(_date(run.ended_ms))
    return found


def _place(run: Run) -> bytes:
    return run.begun_ms.to_bytes(8, "big") + run.number


def _not_found(name: str) -> NotFound:
    return NotFound(f"there is no {name}, or nothing is known of it any more", reason="BULK_RUN_NOT_FOUND", metadata={"name": name})


def _date(ms: int) -> Timestamp:
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)
