"""The OpenAPI 3.1 document, made from the table of calls."""

import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from jobwire_gateway.access import COOKIE, is_guarded
from jobwire_gateway.operations import Operation, Parameter, Reads, Returns, Schema
from jobwire_gateway.problems import MEDIA_TYPE
from jobwire_gateway.requests import JSON
from jobwire_gateway.rule_schemas import BULK_RUN, CLASS, GROUP
from jobwire_gateway.schema_parts import ref
from jobwire_gateway.schemas import COMPONENTS, JOB_ID, QUEUE

_PATH_SCHEMAS = {"queue": QUEUE, "id": JOB_ID, "group": GROUP, "class": CLASS, "run": BULK_RUN}

_DESCRIPTION = (
    "Jobs, queues and what happens to them, over HTTP. Names are those of proto JSON; state words are in lower case; dates are RFC 3339; lengths of time are "
    "seconds with an `s`; 64-bit numbers are JSON numbers. Unknown members and query parameters are refused."
)
_ALWAYS = {
    400: "Something in the call is out of its bounds.",
    401: "Nobody knows the credentials, where callers must say who they are.",
    403: "The credentials do not allow it, or a page of another origin asks (`CROSS_ORIGIN`).",
    421: "The gateway does not go by the name in `Host` (`HOST_NOT_ALLOWED`).",
    429: "Too many requests at once.",
    431: "The request line and headers are too large.",
    500: "Something went wrong inside.",
    503: "The broker or its store is away, or this gateway is about to end.",
    504: "The broker did not answer in time.",
}
_WITH_PATH = {404: "There is nothing at this path."}
_WITH_BODY = {
    408: "The body did not arrive in time.",
    413: "The body, or a payload in it, is too large.",
    415: "The body is of another media type, or compressed; `detail` says what to send.",
}
_WITH_CHANGE = {412: "The call has an If-Match: no change is made on a condition."}

_SECURITY_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "An API key, a JWT, or a token that `createWatchToken` made."},
    "token": {"type": "apiKey", "in": "query", "name": "token", "description": "A watch token, for who cannot set headers: streams alone."},
    "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "What `createSession` sets, for our own pages."},
}


def document(operations: Sequence[Operation], *, asks_callers: bool = False) -> dict[str, object]:
    """The whole document. `asks_callers`: where callers must say who they are, how they do."""
    paths: dict[str, dict[str, object]] = {}
    for operation in operations:
        shown = _operation(operation)
        if asks_callers and not is_guarded(operation.path):
            shown["security"] = []
        paths.setdefault(operation.path, {})[operation.method.lower()] = shown
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Jobwire",
            "version": importlib.metadata.version("jobwire"),
            "description": _DESCRIPTION,
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in operations)],
        "paths": paths,
        "components": {"schemas": COMPONENTS, **({"securitySchemes": _SECURITY_SCHEMES} if asks_callers else {})},
        **({"security": [{name: []} for name in _SECURITY_SCHEMES]} if asks_callers else {}),
    }


def failures(operation: Operation) -> dict[int, str]:
    """Every status of a problem that this call may end with, and what it means."""
    reads = {} if operation.reads is Reads.NOTHING else _WITH_BODY
    changes = {} if operation.method == "GET" or operation.handler is None else _WITH_CHANGE
    found = {**_ALWAYS, **(_WITH_PATH if "{" in operation.path else {}), **reads, **changes, **operation.fails}
    return {status: found[status] for status in sorted(found) if status not in operation.returns}


def path_names(operation: Operation) -> list[str]:
    """What is to be filled in in a path."""
    return re.findall(r"{(\w+)}", operation.path)


def _operation(operation: Operation) -> dict[str, object]:
    shown: dict[str, object] = {"operationId": operation.id, "tags": [operation.tag], "summary": operation.summary}
    if operation.description:
        shown["description"] = operation.description
    parameters = [_path_parameter(name) for name in path_names(operation)] + [_parameter(parameter) for parameter in operation.parameters]
    if parameters:
        shown["parameters"] = parameters
    if operation.reads is not Reads.NOTHING:
        shown["requestBody"] = _body(operation)
    answers: dict[str, object] = {str(status): _answer(returns) for status, returns in operation.returns.items()}
    return {**shown, "responses": answers | {str(status): _problem(sentence) for status, sentence in failures(operation).items()}}


def _path_parameter(name: str) -> dict[str, object]:
    return {"name": name, "in": "path", "required": True, "schema": _PATH_SCHEMAS[name]}


def _parameter(parameter: Parameter) -> dict[str, object]:
    shown: dict[str, object] = {"name": parameter.name, "in": parameter.where, "description": parameter.description, "schema": parameter.schema}
    return {**shown, "required": True} if parameter.required else shown


def _body(operation: Operation) -> dict[str, object]:
    content: dict[str, dict[str, object]] = {media_type: {"schema": schema} for media_type, schema in operation.body.items()}
    if operation.example is not None:
        content[JSON]["example"] = operation.example
    return {"required": operation.reads is not Reads.OPTIONAL, "content": content}


def _answer(returns: Returns) -> dict[str, object]:
    shown: dict[str, object] = {"description": returns.description}
    if returns.schema is not None:
        shown["content"] = {media_type: {"schema": schema} for media_type, schema in _contents(returns).items()}
    if returns.headers:
        shown["headers"] = {name: {"description": sentence, "schema": {"type": "string"}} for name, sentence in returns.headers.items()}
    return shown


def _contents(returns: Returns) -> Mapping[str, Schema]:
    assert returns.schema is not None
    return {returns.media_type: returns.schema, **returns.others}


def _problem(sentence: str) -> dict[str, object]:
    return {"description": sentence, "content": {MEDIA_TYPE: {"schema": ref("Problem")}}}


def title(status: int) -> str:
    """A status in words."""
    return HTTPStatus(status).phrase
