"""Where the changes come from: a broker that knows the feed alone, so that nothing but the gateway is measured."""

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
from jobwire.v1.admin_service_pb2 import GetIdentityRequest, GetIdentityResponse
from jobwire.v1.admin_service_pb2_grpc import AdminServiceServicer, add_AdminServiceServicer_to_server
from jobwire.v1.event_service_pb2 import SubscribeRequest, SubscribeResponse
from jobwire.v1.event_service_pb2_grpc import EventServiceServicer, add_EventServiceServicer_to_server
from jobwire.v1.job_pb2 import Job, JobState, Progress
from jobwire.v1.job_service_pb2 import ChangeType, JobChange
from jobwire_gateway.access import TOKEN_PREFIX

JOB = "queues/bench/jobs/one"
JOBS = "queues/bench/jobs/j"
"""What the names of jobs begin with when each reader has one of its own."""

_STATES = (JobState.JOB_STATE_ACTIVE, JobState.JOB_STATE_DELAYED)


def change(number: int, name: str = JOB, padding: int = 0) -> Job:
    """The `number`-th state of a job. Each differs from the one before in more than its progress, so none is left out; the message says when it was made."""
    return Job(
        name=name,
        queue="bench",
        id=name.rpartition("/")[2],
        job_name="thumbnail",
        state=_STATES[number % 2],
        revision=1_760_000_000_000_000 + number,
        attempt=1,
        max_attempts=3,
        progress=Progress(percent=50.0, message=f"{time.monotonic_ns():020d}{'x' * padding}"),
    )


def token(number: int) -> str:
    """What the reader of the `number`-th job shows. As long as a watch token of ours."""
    return f"{TOKEN_PREFIX}{number:0>320}"


class Callers(AdminServiceServicer):
    """Knows every token."""

    def GetIdentity(self, request: GetIdentityRequest, context: grpc.ServicerContext) -> GetIdentityResponse:
        (authorization,) = (str(value) for key, value in context.invocation_metadata() if key == "authorization")
        number = int(authorization.removeprefix(f"Bearer {TOKEN_PREFIX}"))
        answer = GetIdentityResponse(authenticated=True, name=f"user-{number}", scopes=[f"watch:bench/j{number}"])
        answer.expire_time.FromSeconds(int(time.time()) + 600)
        return answer


class Source(EventServiceServicer):
    """The broker. `publish` hands a change to whoever is subscribed."""

    def __init__(self) -> None:
        self._responses: queue.SimpleQueue[SubscribeResponse | None] = queue.SimpleQueue()
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        add_EventServiceServicer_to_server(self, self._server)
        # What nobody calls here is left as it is.
        add_AdminServiceServicer_to_server(Callers(), self._server)  # type: ignore[abstract]
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def publish(self, number: int, padding: int = 0) -> None:
        """Let the job change; `padding` makes its message so many bytes longer."""
        self._responses.put(SubscribeResponse(changes=[JobChange(type=ChangeType.CHANGE_TYPE_UPDATE, job=change(number, padding=padding))]))

    def close(self) -> None:
        """End the feed and the server."""
        self._responses.put(None)
        self._server.stop(0)

    def Subscribe(self, requests: Iterator[SubscribeRequest], context: grpc.ServicerContext) -> Iterator[SubscribeResponse]:
        threading.Thread(target=self._confirm, args=(requests,), daemon=True).start()
        yield SubscribeResponse(store_available=True)
        while (response := self._responses.get()) is not None:
            yield response

    def _confirm(self, requests: Iterator[SubscribeRequest]) -> None:
        try:
            for request in requests:
                snapshots = [JobChange(type=ChangeType.CHANGE_TYPE_SNAPSHOT, job=change(0, name)) for name in request.add]
                self._responses.put(SubscribeResponse(added=request.add, changes=snapshots))
        except grpc.RpcError:
            pass  # the gateway has gone
