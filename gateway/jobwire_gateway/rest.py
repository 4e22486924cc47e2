"""The REST endpoints of jobs and queues: each translates a request, asks the broker, and translates the answer."""

from jobwire.v1.job_pb2 import Durability, JobState
from jobwire.v1.job_service_pb2 import CancelJobRequest, EnqueueVerdict, GetJobRequest, ListJobsRequest, RetryJobRequest
from jobwire.v1.queue_service_pb2 import ListQueuesRequest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from jobwire_gateway.brokers import Brokers
from jobwire_gateway.config import GatewayConfig
from jobwire_gateway.enqueue import duration, enqueue_request
from jobwire_gateway.jobs import STATES, job_json, queue_json, state_of
from jobwire_gateway.names import job_name, queue_name
from jobwire_gateway.problems import Problem
from jobwire_gateway.requests import invalid, json_body, query_of, refuse_unknown

_NO_STORE = {"Cache-Control": "no-store"}
_VERDICT = "ENQUEUE_VERDICT_"
_VERBS = ("cancel", "retry")
_MAX_PAGE_TOKEN = 2048


class Rest:
    """The endpoints."""

    def __init__(self, config: GatewayConfig, brokers: Brokers) -> None:
        self._brokers = brokers
        self._max_body = config.max_body_bytes
        self._disk_timeout_s = 2 * config.call_timeout.total_seconds()

    async def enqueue(self, request: Request) -> Response:
        """`POST /v1/queues/{queue}/jobs`. 202: the job is there, and runs when a worker has room."""
        queue = request.path_params["queue"]
        queue_name(queue)
        query_of(request.scope, ())
        call = enqueue_request(queue, await json_body(request, self._max_body))
        timeout_s = self._disk_timeout_s if call.durability == Durability.DURABILITY_DISK else None
        answer = await self._brokers.call(lambda broker: broker.jobs.Enqueue, call, timeout_s=timeout_s)
        url = f"/v1/{answer.name}"
        verdict = EnqueueVerdict.Name(answer.verdict).removeprefix(_VERDICT).lower()
        body = {"name": answer.name, "id": answer.id, "verdict": verdict, "eventsUrl": f"{url}/events"}
        return JSONResponse(body, 202, {**_NO_STORE, "Location": url})

    async def get(self, request: Request) -> Response:
        """`GET /v1/queues/{queue}/jobs/{id}`, payload and all."""
        name = job_name(request.path_params["queue"], request.path_params["id"])
        query_of(request.scope, ())
        answer = await self._brokers.call(lambda broker: broker.jobs.GetJob, GetJobRequest(name=name))
        return JSONResponse(job_json(answer.job), headers=_NO_STORE)

    async def list_jobs(self, request: Request) -> Response:
        """`GET /v1/queues/{queue}/jobs?state=…`, without payloads."""
        parent = queue_name(request.path_params["queue"])
        query = query_of(request.scope, ("pageSize", "pageToken", "state"))
        state = _state(query)
        page = ListJobsRequest(parent=parent, state=state, page_size=_page_size(query), page_token=_page_token(query))
        answer = await self._brokers.call(lambda broker: broker.jobs.ListJobs, page)
        return _page("jobs", [job_json(job) for job in answer.jobs], answer.next_page_token)

    async def list_queues(self, request: Request) -> Response:
        """`GET /v1/queues`."""
        query = query_of(request.scope, ("pageSize", "pageToken"))
        page = ListQueuesRequest(page_size=_page_size(query), page_token=_page_token(query))
        answer = await self._brokers.call(lambda broker: broker.queues.ListQueues, page)
        return _page("queues", [queue_json(queue) for queue in answer.queues], answer.next_page_token)

    async def act(self, request: Request) -> Response:
        """`POST /v1/queues/{queue}/jobs/{id}:cancel` and `:retry`. Answers with the job after the call."""
        job_id, _, verb = request.path_params["id"].rpartition(":")
        if verb not in _VERBS:
            raise Problem(404, "There is no such verb; a job has :cancel and :retry.", reason="NO_SUCH_VERB")
        name = job_name(request.path_params["queue"], job_id)
        query_of(request.scope, ())
        body = await json_body(request, self._max_body, optional=True)
        job = await (self._cancel(name, body) if verb == "cancel" else self._retry(name, body))
        return JSONResponse(job, headers=_NO_STORE)

    async def _cancel(self, name: str, body: dict[str, object]) -> dict[str, object]:
        refuse_unknown(body, ("grace",))
        request = CancelJobRequest(name=name)
        if "grace" in body:
            request.grace.CopyFrom(duration("grace", body["grace"]))
        return job_json((await self._brokers.call(lambda broker: broker.jobs.CancelJob, request)).job)

    async def _retry(self, name: str, body: dict[str, object]) -> dict[str, object]:
        refuse_unknown(body, ())
        return job_json((await self._brokers.call(lambda broker: broker.jobs.RetryJob, RetryJobRequest(name=name))).job)


def _state(query: dict[str, str]) -> JobState.ValueType:
    state = state_of(query.get("state", ""))
    if state is None:
        raise invalid("state", f"must be one of {', '.join(STATES)}")
    return state


def _page_size(query: dict[str, str]) -> int:
    text = query.get("pageSize", "0")
    if not (text.isascii() and text.isdigit() and int(text[:9]) <= 1_000 and len(text) < 9) or ("pageSize" in query and int(text) == 0):
        raise invalid("pageSize", "must be a whole number from 1 to 1000")
    return int(text)


def _page_token(query: dict[str, str]) -> str:
    token = query.get("pageToken", "")
    if len(token) > _MAX_PAGE_TOKEN:
        raise invalid("pageToken", "is not one of this list")
    return token


def _page(name: str, items: list[dict[str, object]], next_page_token: str) -> Response:
    body: dict[str, object] = {name: items}
    if next_page_token:
        body["nextPageToken"] = next_page_token
    return JSONResponse(body, headers=_NO_STORE)
