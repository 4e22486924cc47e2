"""The handler of the delivery queue: one signed request, and what its answer means.

2xx                          done
410                          the endpoint is gone: its group is paused, and the delivery waits until somebody resumes it
429, 503 with Retry-After    the endpoint has had enough: nothing goes there until then, and no attempt is charged
an address that is refused   failed for good: another attempt would find the same settings
all else                     another attempt, by the delivery's own waits; redirects are never followed
"""

import asyncio
import email.utils
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from importlib import metadata
from typing import NamedTuple
from urllib.parse import urlsplit

import httpcore
from jobwire_worker import Job, Limited, Permanent, Retry

from jobwire_gateway.webhooks.endpoints import Endpoint, Endpoints
from jobwire_gateway.webhooks.metrics import WebhookMetrics
from jobwire_gateway.webhooks.network import AddressRefused
from jobwire_gateway.webhooks.secrets import SecretUnreadable, signature

_log = logging.getLogger("jobwire.webhooks")

_EXCERPT_BYTES = 2048
"""What is read of an answer that is not 2xx."""
_EXCERPT_SHOWN = 200
_EXCERPT_S = 2.0
_SHORTEST_LIMIT_S, _LONGEST_LIMIT_S = 1.0, 86_400.0
_DEFAULT_PORTS = {"https": 443, "http": 80}

Pause = Callable[[str], Awaitable[bool]]
"""Stops the deliveries of an endpoint, and says whether it could."""


class DeliveryFailed(Retry):
    """Raised when the receiver did not take it: it answered something else than 2xx, or not at all."""


class EndpointGone(Retry):
    """Raised when the receiver answered 410: nobody wants this any more."""


class EndpointUnknown(Retry):
    """Raised when this process's file has no such endpoint. Another's may, while a new file is brought out."""


class AddressNotAllowed(Permanent):
    """Raised when the endpoint's host leads to an address that webhooks may not be sent to."""


class Answer(NamedTuple):
    """What came back."""

    status: int
    retry_after: str
    excerpt: str
    """The first of a body that is not of a 2xx, for people."""


class Sender:
    """Sends. `pool` connects only where it may."""

    def __init__(self, endpoints: Endpoints, pool: httpcore.AsyncConnectionPool, timeout: timedelta, pause: Pause, metrics: WebhookMetrics) -> None:
        self._endpoints = endpoints
        self._pool = pool
        self._timeout_s = timeout.total_seconds()
        self._pause = pause
        self._metrics = metrics

    async def deliver(self, job: Job[bytes]) -> dict[str, object]:
        """Send one delivery. Raises what says how its attempt ended."""
        endpoint = self._endpoints.named(job.group)
        if endpoint is None:
            raise EndpointUnknown(f"there is no endpoint {job.group} in the file of this process")
        began, outcome = time.monotonic(), "failed"
        try:
            answer = await self._ask(endpoint, job.id, job.payload)
            outcome = _outcome_of(answer)
            await self._judge(endpoint, outcome, answer)
            return {"status": answer.status}
        except AddressRefused as error:
            outcome = "refused"
            raise AddressNotAllowed(f"{endpoint.name}: {error}") from None
        finally:
            self._metrics.attempted(endpoint.name, outcome, time.monotonic() - began)

    async def _ask(self, endpoint: Endpoint, delivery: str, body: bytes) -> Answer:
        """Send it and read the head of the answer. Raises AddressRefused and DeliveryFailed."""
        try:
            headers = _headers(endpoint, delivery, body)
            async with asyncio.timeout(self._timeout_s):
                return await self._post(endpoint, headers, body)
        except SecretUnreadable as error:
            raise DeliveryFailed(f"{endpoint.name} has no secret to sign with: {error}") from None
        except TimeoutError:
            raise DeliveryFailed(f"{endpoint.host} did not answer within {self._timeout_s:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, ssl.SSLError, OSError) as error:
            raise DeliveryFailed(f"{endpoint.host} can't be reached: {_shown(str(error)) or type(error).__name__}") from None

    async def _post(self, endpoint: Endpoint, headers: Mapping[str, str], body: bytes) -> Answer:
        # A dot at the end of a name is for resolvers alone; no certificate has it.
        tls = {"sni_hostname": endpoint.host.removesuffix(".")}
        async with self._pool.stream("POST", _url(endpoint.url), headers=list(headers.items()), content=body, extensions=tls) as response:
            found = {name.lower(): value.decode("latin-1") for name, value in response.headers}
            excerpt = "" if 200 <= response.status < 300 else await _excerpt(response)
            return Answer(response.status, found.get(b"retry-after", ""), excerpt)

    async def _judge(self, endpoint: Endpoint, outcome: str, answer: Answer) -> None:
        """Raises unless the receiver took it."""
        said = f"{endpoint.host} answered {answer.status}" + (f": {answer.excerpt}" if answer.excerpt else "")
        match outcome:
            case "delivered":
                return
            case "gone":
                paused = await self._pause(endpoint.name)
                raise EndpointGone(f"{said}; {endpoint.name} " + ("is paused until its group is resumed" if paused else "could not be paused"))
            case "limited":
                raise Limited(_limit_s(answer.retry_after) or _SHORTEST_LIMIT_S)
            case _:
                raise DeliveryFailed(said)


def _outcome_of(answer: Answer) -> str:
    if 200 <= answer.status < 300:
        return "delivered"
    if answer.status == 410:
        return "gone"
    if answer.status in (429, 503) and _limit_s(answer.retry_after) is not None:
        return "limited"
    return "failed"


def _limit_s(retry_after: str) -> float | None:
    """How long `Retry-After` asks for, in seconds or as a date; None when it says nothing."""
    if retry_after.isascii() and retry_after.isdigit():
        seconds = float(retry_after[:10])
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return min(max(seconds, _SHORTEST_LIMIT_S), _LONGEST_LIMIT_S)


def _headers(endpoint: Endpoint, delivery: str, body: bytes) -> dict[str, str]:
    """Raises SecretUnreadable."""
    timestamp = int(time.time())
    return {
        "Host": urlsplit(endpoint.url).netloc,
        "User-Agent": _USER_AGENT,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        "webhook-id": delivery,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature([secret.key() for secret in endpoint.secrets], delivery, timestamp, body),
    }


def _url(text: str) -> httpcore.URL:
    """Its parts as the file's check saw them: nobody takes the text apart a second time, in another way."""
    parts = urlsplit(text)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return httpcore.URL(scheme=parts.scheme, host=parts.hostname or "", port=parts.port or _DEFAULT_PORTS[parts.scheme], target=target)


async def _excerpt(response: httpcore.Response) -> str:
    """The first of an answer's body, as one line; what comes slowly is not waited for."""
    read = b""
    try:
        async with asyncio.timeout(_EXCERPT_S):
            async for chunk in response.aiter_stream():
                read += chunk[: _EXCERPT_BYTES - len(read)]
                if len(read) >= _EXCERPT_BYTES:
                    break
    except (TimeoutError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
        pass
    return _shown(read.decode("utf-8", "replace"))


def _shown(text: str) -> str:
    """A text from outside, short and on one line."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= _EXCERPT_SHOWN else line[:_EXCERPT_SHOWN] + "…"


def _version() -> str:
    try:
        return metadata.version("jobwire")
    except metadata.PackageNotFoundError:
        return "0"


_USER_AGENT = f"jobwire/{_version()}"
