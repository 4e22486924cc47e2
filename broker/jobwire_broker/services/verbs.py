"""Which verb each RPC is, and which queues and jobs a request is about. One table for the whole contract: an RPC that is not in it is not served."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from jobwire_broker.names import id_to_text, parse_bulk_run, parse_job, parse_queue
from jobwire_broker.topics import parse_topic


class Reach(Enum):
    """Where the verb must be allowed."""

    PUBLIC = "nobody needs to say who they are"
    KNOWN = "any valid credentials will do"
    SOMEWHERE = "for at least one queue; the answer shows only what the caller may see"
    NAMED = "for every queue and job that the request names"
    EVERYWHERE = "for all queues"


class Target(NamedTuple):
    """A queue, or a part of it: a job's id, or what else `Topic.part` says. An empty queue stands for all of them."""

    queue: str
    job_id: str = ""


ALL = Target("")


@dataclass(frozen=True)
class Rule:
    """What an RPC needs. `targets` raises InvalidField where a name is none."""

    reach: Reach
    verb: str = ""
    targets: Callable[[Any], Iterable[Target]] | None = None


def _named(verb: str, targets: Callable[[Any], Iterable[Target]]) -> Rule:
    return Rule(Reach.NAMED, verb, targets)


def _job(name: str, field: str = "name") -> Target:
    queue, raw_id = parse_job(name, field)
    return Target(queue, id_to_text(raw_id))


def _job_of(request: Any) -> Iterator[Target]:
    yield _job(request.name)


def _queue_of(request: Any) -> Iterator[Target]:
    yield Target(parse_queue(request.name))


def _parent_of(request: Any) -> Iterator[Target]:
    yield Target(parse_queue(request.parent, "parent"))


def _group_of(request: Any) -> Iterator[Target]:
    yield Target(parse_queue("/".join(request.name.split("/")[:2])))


def _bulk_run_of(request: Any) -> Iterator[Target]:
    yield Target(parse_bulk_run(request.name)[0])


def _topic(name: str, field: str) -> Target:
    topic = parse_topic(name, field)
    return Target(topic.queue, topic.part)


def _topics(field: str) -> Callable[[Any], Iterator[Target]]:
    return lambda request: (_topic(name, f"{field}[{i}]") for i, name in enumerate(getattr(request, field)))


def _queues_in(field: str) -> Callable[[Any], Iterator[Target]]:
    """Each queue once: a batch names the same one again and again. What is no queue's name is left to the handler, which says so for its item."""
    return lambda request: map(Target, {item.queue for item in getattr(request, field)})


def _hello(request: Any) -> Iterator[Target]:
    return map(Target, request.hello.queues)


_PUBLIC = Rule(Reach.PUBLIC)
_KNOWN = Rule(Reach.KNOWN)
_ADMIN = Rule(Reach.EVERYWHERE, "admin")
_OURS = "/jobwire.v1."

RULES: dict[str, Rule] = {
    _OURS + "JobService/Enqueue": _named("enqueue", lambda request: (Target(request.job.queue),)),
    _OURS + "JobService/EnqueueBatch": _named("enqueue", _queues_in("jobs")),
    # The stream checks each message, so that one which is refused does not end the others, and names its queue (services/enqueue_stream.py).
    _OURS + "JobService/EnqueueStream": Rule(Reach.KNOWN, "enqueue"),
    _OURS + "JobService/GetJob": _named("read", _job_of),
    _OURS + "JobService/ListJobs": _named("read", _parent_of),
    _OURS + "JobService/ExplainJob": _named("read", _job_of),
    _OURS + "JobService/CancelJob": _named("control", _job_of),
    _OURS + "JobService/RetryJob": _named("control", _job_of),
    _OURS + "JobService/PromoteJob": _named("control", _job_of),
    _OURS + "JobService/UpdateJob": _named("control", lambda request: (_job(request.job.name, "job.name"),)),
    _OURS + "JobService/DeleteJob": _named("control", _job_of),
    _OURS + "JobService/BulkJobs": _named("control", _parent_of),
    _OURS + "JobService/ListBulkRuns": _named("read", _parent_of),
    _OURS + "JobService/GetBulkRun": _named("read", _bulk_run_of),
    _OURS + "JobService/StopBulkRun": _named("control", _bulk_run_of),
    _OURS + "JobService/ListFailures": _named("read", _parent_of),
    _OURS + "JobService/ResolveJob": _named("control", _job_of),
    _OURS + "JobService/ListLogs": _named("read", _job_of),
    _OURS + "JobService/WaitJob": _named("watch", _job_of),
    _OURS + "JobService/WatchJobs": _named("watch", _topics("names")),
    # Checked when `hello` comes; all later frames may name only the queues of `hello` (rules/session.py).
    _OURS + "WorkerService/Work": _named("work", _hello),
    _OURS + "WorkerService/LeaseJobs": _named("work", lambda request: (Target(request.queue),)),
    _OURS + "WorkerService/FinishJobs": _named("work", _queues_in("finishes")),
    _OURS + "WorkerService/ExtendLeases": _named("work", _queues_in("leases")),
    _OURS + "WorkerService/ReportProgress": _named("work", _queues_in("reports")),
    _OURS + "QueueService/ListQueues": Rule(Reach.SOMEWHERE, "read"),
    _OURS + "QueueService/GetQueue": _named("read", _queue_of),
    _OURS + "QueueService/UpdateQueue": _named("manage", lambda request: (Target(parse_queue(request.queue.name, "queue.name")),)),
    _OURS + "QueueService/PauseQueue": _named("manage", _queue_of),
    _OURS + "QueueService/ResumeQueue": _named("manage", _queue_of),
    _OURS + "QueueService/CleanQueue": _named("manage", _queue_of),
    _OURS + "QueueService/PurgeQueue": _named("manage", _queue_of),
    _OURS + "QueueService/ListGroups": _named("read", _parent_of),
    _OURS + "QueueService/PauseGroup": _named("manage", _group_of),
    _OURS + "QueueService/ResumeGroup": _named("manage", _group_of),
    _OURS + "QueueService/UpdateGroup": _named("manage", lambda request: (Target(parse_queue("/".join(request.group.name.split("/")[:2]), "group.name")),)),
    # Of all queues; those that the caller may not see are left out.
    _OURS + "QueueService/ListClasses": Rule(Reach.SOMEWHERE, "read"),
    _OURS + "QueueService/PauseClass": Rule(Reach.EVERYWHERE, "manage"),
    _OURS + "QueueService/ResumeClass": Rule(Reach.EVERYWHERE, "manage"),
    _OURS + "EventService/Subscribe": _named("watch", _topics("add")),
    _OURS + "AdminService/ListWorkers": _ADMIN,
    _OURS + "AdminService/DrainWorker": _ADMIN,
    _OURS + "AdminService/CheckConsistency": _ADMIN,
    _OURS + "AdminService/GetServerInfo": _KNOWN,
    _OURS + "AdminService/GetIdentity": _KNOWN,
    _OURS + "AdminService/CreateSessionToken": _KNOWN,
    _OURS + "AdminService/CreateWatchToken": _named("watch", _topics("names")),
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _KNOWN,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _KNOWN,
    "/grpc.health.v1.Health/Check": _PUBLIC,
    "/grpc.health.v1.Health/Watch": _PUBLIC,
    "/grpc.health.v1.Health/List": _PUBLIC,
}

#: A ticket is spent where it is looked at, and nowhere else.
SPENDS_TICKETS = _OURS + "AdminService/GetIdentity"


def topic_scope(name: str, field: str) -> str:
    """The scope that lets somebody watch a topic. Raises InvalidField."""
    target = _topic(name, field)
    return f"watch:{target.queue or '*'}{f'/{target.job_id}' if target.job_id else ''}"


def rule_of(method: str) -> Rule:
    """What a method needs. Raises LookupError for one that the table lacks: it must not be served."""
    if method not in RULES:
        raise LookupError(f"{method} has no line in services/verbs.py")
    return RULES[method]
