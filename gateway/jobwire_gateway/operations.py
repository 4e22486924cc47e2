"""What is known of a call before it is made: one `Operation` for each method of each path.

The routes, the OpenAPI document and the page at /docs are all made from these, so none of them can say what another does not. To add a call is to
add an `Operation` to the table in `table.py`; where it only hands a request on to one RPC, `relay` makes its handler.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from jobwire_gateway.brokers import Broker, Brokers
from jobwire_gateway.json_text import JsonAnswer
from jobwire_gateway.names import job_name, queue_name
from jobwire_gateway.requests import JSON, invalid, json_body, query_with_lists, refuse_condition, refuse_unknown

Schema = Mapping[str, Any]
"""A JSON Schema, in the dialect of OpenAPI 3.1."""

Answer = TypeVar("Answer")

NO_STORE = {"Cache-Control": "no-store"}


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """Something that stands in the query or in a header. What stands in a path is known by its name."""

    name: str
    description: str
    """One sentence or two."""
    schema: Schema = field(default_factory=lambda: {"type": "string"})
    required: bool = False
    where: Literal["query", "header"] = "query"

    @property
    def is_list(self) -> bool:
        """Whether it may be there several times."""
        return self.schema.get("type") == "array"


@dataclass(frozen=True, kw_only=True)
class Returns:
    """One way in which a call succeeds."""

    description: str
    schema: Schema | None = None
    """None: there is no body."""
    media_type: str = JSON
    others: Mapping[str, Schema] = field(default_factory=dict)
    """What the body may be as well, by its media type."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """What a header of the answer says, by its name."""


class Reads(Enum):
    """What a call does with the body of its request."""

    NOTHING = "nothing"
    """It has none; one that comes all the same is passed over."""
    OBJECT = "object"
    """A JSON object is required."""
    OPTIONAL = "optional"
    """A JSON object, or nothing, which is an empty object."""
    ITSELF = "itself"
    """The handler reads it."""


@dataclass(frozen=True)
class Asked:
    """A request whose query and body have been read."""

    request: Request
    query: Mapping[str, str]
    body: Mapping[str, object]
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What stands in the query and may be there several times."""

    @property
    def queue(self) -> str:
        """`queues/{queue}`. Raises Problem: 400."""
        return queue_name(self.request.path_params["queue"])

    @property
    def job(self) -> str:
        """`queues/{queue}/jobs/{id}`. Raises Problem: 400."""
        return job_name(self.request.path_params["queue"], self.request.path_params["id"])


Handler = Callable[[Asked], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path."""

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    """As OpenAPI writes it: `/v1/queues/{queue}/jobs/{id}:cancel`."""
    id: str
    """The name of the call in generated clients."""
    tag: str
    """The heading under which the page at /docs shows it."""
    summary: str
    """One sentence without its full stop."""
    handler: Handler | None = None
    """Who answers. None: `app` does."""
    app: ASGIApp | None = None
    """Who answers and reads the request alone, as streams do."""
    description: str = ""
    """What there is to know beside the summary, in Markdown paragraphs."""
    parameters: Sequence[Parameter] = ()
    reads: Reads = Reads.NOTHING
    body: Mapping[str, Schema] = field(default_factory=dict)
    """What a body may be, by its media type."""
    example: object = None
    """A body to show."""
    returns: Mapping[int, Returns] = field(default_factory=dict)
    fails: Mapping[int, str] = field(default_factory=dict)
    """What a status means that is particular to this call."""

    @property
    def query_names(self) -> tuple[str, ...]:
        """What the query may hold once."""
        return tuple(parameter.name for parameter in self.parameters if parameter.where == "query" and not parameter.is_list)

    @property
    def list_names(self) -> tuple[str, ...]:
        """What it may hold several times."""
        return tuple(parameter.name for parameter in self.parameters if parameter.where == "query" and parameter.is_list)


def relay(
    brokers: Brokers,
    rpc: Callable[[Broker], Callable[..., Awaitable[Answer]]],
    request: Callable[[Asked], object],
    answer: Callable[[Answer], object],
) -> Handler:
    """A handler that asks the broker one thing and shows its answer as JSON; an answer of None is 204."""

    async def handle(asked: Asked) -> Response:
        shown = answer(await brokers.call(rpc, request(asked)))
        return Response(status_code=204, headers=NO_STORE) if shown is None else JsonAnswer(shown, headers=NO_STORE)

    return handle


def of_request(handler: Callable[[Request], Awaitable[Response]]) -> Handler:
    """A handler that wants nothing but the request."""

    async def handle(asked: Asked) -> Response:
        return await handler(asked.request)

    return handle


def routes(operations: Sequence[Operation], max_body: int) -> list[Route]:
    """One route for each path, with all its methods, so that any other method is answered with those in `Allow`. Longer paths come first."""
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in operations:
        by_path.setdefault(operation.path, {})[operation.method] = operation
    return [_route(path, methods, max_body) for path, methods in sorted(by_path.items(), key=lambda item: -len(item[0]))]


def _route(path: str, methods: dict[str, Operation], max_body: int) -> Route:
    (first, *others) = methods.values()
    if first.app is not None:
        assert all(other.app is first.app for other in others), f"{path}: a stream shares its path with no other call"
        return Route(path, first.app, methods=list(methods))

    async def endpoint(request: Request) -> Response:
        operation = methods["GET" if request.method == "HEAD" else request.method]
        assert operation.handler is not None
        return await operation.handler(await _read(operation, request, max_body))

    endpoint.route_path = path  # type: ignore[attr-defined]  # for who counts requests
    route = Route(path, endpoint, methods=list(methods))
    if path.endswith(("{queue}", "{class}", "{run}")):
        # No name of a queue, class or bulk run has a colon: what stands behind one is a verb, and that is another path.
        route.path_regex = re.compile(route.path_regex.pattern.replace("[^/]+)$", "[^/:]+)$"))
    return route


async def _read(operation: Operation, request: Request, max_body: int) -> Asked:
    if operation.method != "GET":
        refuse_condition(request.headers)
    query, lists = query_with_lists(request.scope, operation.query_names, operation.list_names)
    _check_required(operation, query)
    body: dict[str, object] = {}
    if operation.reads in (Reads.OBJECT, Reads.OPTIONAL):
        body = await json_body(request, max_body, optional=operation.reads is Reads.OPTIONAL)
        refuse_unknown(body, operation.body[JSON].get("properties", {}))
    return Asked(request, query, body, lists)


def _check_required(operation: Operation, query: Mapping[str, str]) -> None:
    for parameter in operation.parameters:
        if parameter.required and parameter.where == "query" and parameter.name not in query:
            raise invalid(parameter.name, "is required")


def verbs_of(operations: Sequence[Operation], path: str) -> list[str]:
    """The verbs that what stands at this path has: `:cancel`, `:retry`. A path of something else has none."""
    address = path.rpartition(":")[0] if ":" in path.rpartition("/")[2] else path
    found = []
    for operation in operations:
        template, _, verb = operation.path.rpartition(":")
        if template.endswith("}") and re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), address):
            found.append(f":{verb}")
    return found
