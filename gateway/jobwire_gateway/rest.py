"""The calls that do more than hand one request on to the broker: they enqueue, wait, compare revisions. The others stand in `table.py` alone."""

import importlib.metadata
import zlib
from collections.abc import Iterable

from jobwire.v1.admin_service_pb2 import GetServerInfoRequest, ListWorkersRequest
from jobwire.v1.job_pb2 import Durability, Job, JobSpec, JobState
from jobwire.v1.job_service_pb2 import CancelJobRequest, EnqueueRequest, GetJobRequest, ListJobsRequest
from jobwire.v1.queue_service_pb2 import CleanQueueRequest, ListQueuesRequest
from starlette.requests import Request
from starlette.responses import Response

from jobwire_gateway.batches import Batches, Refusal, enqueued, making, refusal
from jobwire_gateway.brokers import Brokers
from jobwire_gateway.config import GatewayConfig
from jobwire_gateway.contract import duration
from jobwire_gateway.enqueue import Mint, durability_of, job_members, job_spec, minting
from jobwire_gateway.jobs import STATES, job_json, server_json, state_of
from jobwire_gateway.json_text import JsonAnswer
from jobwire_gateway.lines import LinesEnqueue
from jobwire_gateway.operations import NO_STORE, Asked
from jobwire_gateway.problems import Problem
from jobwire_gateway.requests import JSON, NDJSON, invalid, json_body, media_type_of, page_of, preferred_wait, refuse_coded, wrong_media_type
from jobwire_gateway.rules import filter_of
from jobwire_gateway.waits import Waits

_VERSION = importlib.metadata.version("jobwire")


class Rest:
    """The handlers."""

    def __init__(self, config: GatewayConfig, brokers: Brokers, waits: Waits) -> None:
        self._config = config
        self._brokers = brokers
        self._waits = waits
        self._disk_timeout_s = 2 * config.call_timeout.total_seconds()
        self._batches = Batches(brokers, self._disk_timeout_s)

    # Enqueue ------------------------------------------------------------------------------------------------------------------------------------------

    async def enqueue(self, asked: Asked) -> Response:
        """Make one job, many, or very many: by the body's form."""
        parent, request = asked.queue, asked.request
        queue = parent.partition("/")[2]
        mint = minting(queue, request.headers)
        match media_type_of(request.headers):
            case "application/json":
                # Also where the body says it: what is in a query is never passed over.
                durability_of(asked.query)
                body = await json_body(request, self._config.max_body_bytes)
                for name, value in asked.query.items():
                    if body.setdefault(name, value) != value:
                        raise invalid(name, "is another in the query than in the body")
                if "jobs" in body:
                    return await self._enqueue_many(queue, body, mint)
                return await self._enqueue_one(request, queue, body, mint)
            case "application/x-ndjson":
                return await self._enqueue_lines(request, queue, asked, mint)
            case _:
                raise wrong_media_type(request.headers, JSON, NDJSON)

    async def _enqueue_one(self, request: Request, queue: str, body: dict[str, object], mint: Mint) -> Response:
        durability = durability_of(body)
        call = EnqueueRequest(job=job_spec(queue, {name: body[name] for name in body if name != "durability"}, 0, mint), durability=durability)
        timeout_s = self._disk_timeout_s if durability == Durability.DURABILITY_DISK else None
        answer = await making(self._brokers.call(lambda broker: broker.jobs.Enqueue, call, timeout_s=timeout_s))
        shown = enqueued(answer.name, answer.id, answer.verdict)
        headers = {**NO_STORE, "Location": f"/v1/{answer.name}"}
        end = await self._end(request, answer.name, headers)
        if end is None:
            return JsonAnswer(shown, 202, headers)
        try:
            job = await self._job(answer.name)
        except Problem:
            # The job was made and has ended: whatever hides its payload, gone or not to be read, makes no failure of that.
            job = end
        return JsonAnswer({**shown, "job": job_json(job)}, 200, headers)

    async def _enqueue_many(self, queue: str, body: dict[str, object], mint: Mint) -> Response:
        entries = [_entry(queue, members, place, mint) for place, members in enumerate(job_members(body))]
        verdicts = await self._batches.make(queue, entries, durability_of(body))
        refused = sum(verdict["verdict"] == "refused" for verdict in verdicts)
        return JsonAnswer({"jobs": verdicts, "refused": refused}, 202, NO_STORE)

    async def _enqueue_lines(self, request: Request, queue: str, asked: Asked, mint: Mint) -> Response:
        refuse_coded(request.headers)
        durability = durability_of(asked.query)
        bounds = {"max_line": self._config.max_body_bytes, "max_body": self._config.max_lines_bytes}
        content = await LinesEnqueue(self._batches, queue, durability, mint, **bounds).run(request)
        return Response(content, 200, NO_STORE, NDJSON)

    # Look ---------------------------------------------------------------------------------------------------------------------------------------------

    async def get(self, asked: Asked) -> Response:
        """One job, payload and all."""
        # Its revision is its version; the private cache of a browser may keep it, and must ask whether it still holds.
        headers = {"Cache-Control": "private, no-cache"}
        end = await self._end(asked.request, asked.job, headers)
        try:
            job = await self._job(asked.job)
        except Problem as problem:
            if end is None or problem.status != 404:
                raise
            job = end
        headers["ETag"] = _etag(job)
        if _matches(asked.request.headers.getlist("if-none-match"), headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return JsonAnswer(job_json(job), headers=headers)

    async def server(self, asked: Asked) -> Response:
        """The broker that answers, and this gateway."""
        info = await self._brokers.call(lambda broker: broker.admin.GetServerInfo, GetServerInfoRequest())
        return JsonAnswer({**server_json(info), "gatewayVersion": _VERSION}, headers=NO_STORE)

    # Wait ---------------------------------------------------------------------------------------------------------------------------------------------

    async def _end(self, request: Request, name: str, headers: dict[str, str]) -> Job | None:
        """The job's end, where `Prefer` asks to wait for it; the answer's headers then say that it was done. None when it has not ended, and when it
        cannot be waited for: a preference is never a reason to refuse a call (RFC 7240), least of all one whose job is made already.
        """
        wanted = preferred_wait(request.headers)
        if wanted is None:
            return None
        wait_s = min(wanted, self._waits.longest_s)
        try:
            end = await self._waits.end_of(request, name, wait_s)
        except Problem:
            return None
        headers["Preference-Applied"] = f"wait={wait_s:.0f}"
        return end

    async def _job(self, name: str) -> Job:
        """The job with its payload."""
        return (await self._brokers.call(lambda broker: broker.jobs.GetJob, GetJobRequest(name=name))).job


def cancel_request(asked: Asked) -> CancelJobRequest:
    """Which job to cancel, and with what grace."""
    request = CancelJobRequest(name=asked.job)
    if "grace" in asked.body:
        request.grace.CopyFrom(duration("grace", asked.body["grace"]))
    return request


def clean_request(asked: Asked) -> CleanQueueRequest:
    """Which jobs to delete."""
    request = CleanQueueRequest(name=asked.queue)
    if "state" in asked.body:
        request.state = _state(str(asked.body["state"]))
    if "grace" in asked.body:
        request.grace.CopyFrom(duration("grace", asked.body["grace"]))
    return request


def list_request(asked: Asked) -> ListJobsRequest:
    """Which jobs to list."""
    size, token = page_of(asked.query)
    state = _state(asked.query.get("state", ""))
    return ListJobsRequest(parent=asked.queue, state=state, page_size=size, page_token=token, filter=filter_of(asked))


def queues_request(asked: Asked) -> ListQueuesRequest:
    """Which queues to list."""
    size, token = page_of(asked.query)
    return ListQueuesRequest(page_size=size, page_token=token)


def workers_request(asked: Asked) -> ListWorkersRequest:
    """Which workers to list."""
    size, token = page_of(asked.query)
    return ListWorkersRequest(page_size=size, page_token=token)


def page_json(name: str, items: list[dict[str, object]], next_page_token: str) -> dict[str, object]:
    """One page of a list."""
    return {name: items, "nextPageToken": next_page_token} if next_page_token else {name: items}


def _entry(queue: str, members: object, place: int, mint: Mint) -> JobSpec | Refusal:
    try:
        if not isinstance(members, dict):
            raise invalid(f"jobs[{place}]", "must be an object")
        return job_spec(queue, members, place, mint)
    except Problem as problem:
        return refusal(problem)


def _state(word: str) -> JobState.ValueType:
    state = state_of(word)
    if state is None:
        raise invalid("state", f"must be one of {', '.join(STATES)}")
    return state


def _etag(job: Job) -> str:
    """Its revision; and what it keeps beside its record, which changes without one."""
    if not (job.log_lines or job.HasField("checkpoint")):
        return f'W/"{job.revision}"'
    kept = zlib.crc32(job.checkpoint.SerializeToString(), job.log_lines)
    return f'W/"{job.revision}-{kept:08x}"'


def _matches(found: Iterable[str], etag: str) -> bool:
    """Whether If-None-Match names this version. It is compared weakly, as RFC 9110 has it for this header."""
    tags = {tag.strip().removeprefix("W/") for tag in ",".join(found).split(",")}
    return etag.removeprefix("W/") in tags or "*" in tags
