"""Tokens for pages: `POST /v1/tokens:watch`, and the session that a page keeps in a cookie instead of the key that its user typed in."""

import time
from collections.abc import Sequence

from jobwire.v1.admin_service_pb2 import (
    CreateSessionTokenRequest,
    CreateWatchTokenRequest,
    CreateWatchTokenResponse,
    GetIdentityRequest,
    GetIdentityResponse,
)
from starlette.responses import Response

from jobwire_gateway.access import COOKIE
from jobwire_gateway.brokers import Brokers
from jobwire_gateway.contract import duration
from jobwire_gateway.names import GROUP_PATTERN, JOB_ID_PATTERN, LABEL_PATTERN, QUEUE_PATTERN
from jobwire_gateway.operations import NO_STORE, Asked, Handler, Operation, Reads, Returns, relay
from jobwire_gateway.requests import JSON, invalid
from jobwire_gateway.schema_parts import closed, given, length, text
from jobwire_gateway.schemas import NO_MEMBERS

ACCESS = "Access"

_MAX_NAMES = 20
_PART = f"jobs/{JOB_ID_PATTERN}|groups/{GROUP_PATTERN}|labels/{LABEL_PATTERN}=[ -~]{{0,128}}"
_TOPIC = f"^queues(/{QUEUE_PATTERN}(/({_PART}))?)?$"
_ONE_HOUR = r"^([1-9][0-9]{0,2}|[12][0-9]{3}|3[0-5][0-9]{2})(\.[0-9]{1,9})?s$"
_WATCH = closed(
    {
        "topics": {
            "type": "array",
            "items": {"type": "string", "pattern": _TOPIC, "examples": ["queues/thumbnails"]},
            "minItems": 1,
            "maxItems": _MAX_NAMES,
            "description": "`queues/QUEUE`, behind that `/jobs/ID`, `/groups/GROUP` or `/labels/KEY=VALUE`, or `queues` for all.",
        },
        "ttl": length("How long it is good: 1 s to 1 h, default 5 min. A ticket must be used within 60 s, whatever is said here; default 30 s.", _ONE_HOUR),
        "singleUse": {"type": "boolean", "description": "Make a ticket: it opens one stream, once, which lives on."},
    },
    required=("topics",),
)
_TOKEN = given(
    {"token": text("Send it as `Authorization: Bearer …`, or for a stream as `?token=…`."), "expiresAt": text("When it expires.", format="date-time")},
    required=("token",),
)
_IDENTITY = given(
    {
        "authenticated": {"type": "boolean", "description": "False where nobody has to say who they are."},
        "name": text("The name of the key, or the subject of the token."),
        "tenant": text("Only queues that begin with it and a dot are in reach."),
        "scopes": {"type": "array", "items": {"type": "string"}},
        "expiresAt": text("When the credentials expire.", format="date-time"),
    },
    required=("authenticated", "name", "scopes"),
)


def operations(brokers: Brokers) -> Sequence[Operation]:
    """All of them."""
    return [
        Operation(
            method="POST",
            path="/v1/tokens:watch",
            id="createWatchToken",
            tag=ACCESS,
            summary="Make a token that lets a page watch some jobs or queues for minutes",
            description="The caller must be allowed to watch all of them. A token never outlives the credentials that made it.",
            handler=relay(brokers, lambda broker: broker.admin.CreateWatchToken, _watch_request, _token_json),
            reads=Reads.OBJECT,
            body={JSON: _WATCH},
            example={"topics": ["queues/thumbnails"], "ttl": "300s"},
            returns={200: Returns(description="The token.", schema=_TOKEN)},
        ),
        Operation(
            method="GET",
            path="/v1/session",
            id="getSession",
            tag=ACCESS,
            summary="Say who the caller is and what it may do",
            handler=relay(brokers, lambda broker: broker.admin.GetIdentity, lambda asked: GetIdentityRequest(), _identity_json),
            returns={200: Returns(description="The caller.", schema=_IDENTITY)},
        ),
        Operation(
            method="POST",
            path="/v1/session",
            id="createSession",
            tag=ACCESS,
            summary="Log a page in: a cookie for eight hours in the place of the key in `Authorization`",
            handler=_log_in(brokers),
            reads=Reads.OPTIONAL,
            body={JSON: NO_MEMBERS},
            returns={204: Returns(description="The cookie is set; it is sent over https and on localhost alone, and by our own pages alone.")},
            fails={409: "Nobody has to say who they are here (`NO_AUTHENTICATION`)."},
        ),
        Operation(
            method="DELETE",
            path="/v1/session",
            id="deleteSession",
            tag=ACCESS,
            summary="Log a page out",
            handler=_log_out,
            returns={204: Returns(description="The cookie is gone.")},
        ),
    ]


def _watch_request(asked: Asked) -> CreateWatchTokenRequest:
    names = asked.body.get("topics")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not 1 <= len(names) <= _MAX_NAMES:
        raise invalid("topics", f"must be 1 to {_MAX_NAMES} names such as queues/thumbnails")
    single_use = asked.body.get("singleUse", False)
    if not isinstance(single_use, bool):
        raise invalid("singleUse", "must be true or false")
    request = CreateWatchTokenRequest(names=names, single_use=single_use)
    if "ttl" in asked.body:
        request.ttl.CopyFrom(duration("ttl", asked.body["ttl"]))
    return request


def _token_json(answer: CreateWatchTokenResponse) -> object:
    return {"token": answer.token, "expiresAt": answer.expire_time.ToJsonString()}


def _identity_json(answer: GetIdentityResponse) -> object:
    shown: dict[str, object] = {"authenticated": answer.authenticated, "name": answer.name, "scopes": list(answer.scopes)}
    if answer.tenant:
        shown["tenant"] = answer.tenant
    if answer.HasField("expire_time"):
        shown["expiresAt"] = answer.expire_time.ToJsonString()
    return shown


def _log_in(brokers: Brokers) -> Handler:
    async def handle(asked: Asked) -> Response:
        answer = await brokers.call(lambda broker: broker.admin.CreateSessionToken, CreateSessionTokenRequest())
        left_s = max(0, answer.expire_time.seconds - int(time.time()))
        return Response(status_code=204, headers={**NO_STORE, "Set-Cookie": _cookie(answer.token, left_s)})

    return handle


async def _log_out(asked: Asked) -> Response:
    return Response(status_code=204, headers={**NO_STORE, "Set-Cookie": _cookie("", 0)})


def _cookie(value: str, max_age_s: int) -> str:
    return f"{COOKIE}={value}; Path=/; Max-Age={max_age_s}; Secure; HttpOnly; SameSite=Strict"
