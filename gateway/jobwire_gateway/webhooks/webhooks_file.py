"""The file of endpoints: read and checked in full, with the line of every mistake, before anything is started.

Durations are `500ms`, `30s`, `5m`, `2h` or `7d`, as in the file of queues.
"""

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import yaml

from jobwire_gateway.addresses import Network
from jobwire_gateway.names import GROUP_PATTERN, LABEL_PATTERN, QUEUE_PATTERN
from jobwire_gateway.webhooks.config import WebhookSettings
from jobwire_gateway.webhooks.endpoints import EVENTS, Endpoint, QueuePattern
from jobwire_gateway.webhooks.network import is_allowed
from jobwire_gateway.webhooks.nodes import Mistake, pairs, sequence, whole, word, yes_or_no
from jobwire_gateway.webhooks.nodes import duration as read_duration
from jobwire_gateway.webhooks.secrets import PREFIX, Secret, SecretUnreadable

MAX_FILE_BYTES = 1 << 20
MAX_ENDPOINTS = 1_000
MAX_SECRETS = 3
_MAX_LISTED = 100
_FIELDS = ("allow_http", "allow_private", "concurrency", "endpoints", "look_back", "queue", "timeout")
_ENDPOINT_FIELDS = ("events", "labels", "queues", "secrets", "url")
_EXAMPLES = {
    "allow_private": "[10.0.0.0/8]",
    "events": "[job.failed]",
    "queues": '[orders, "mail*"]',
    "secrets": "[{file: shop.secret}] or [{env: SHOP_SECRET}]",
    "url": "https://shop.example/jobs",
}
_HOST = re.compile(r"(?=.{1,253}$)([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
_PORT = re.compile(r":[0-9]*$")
_NUMERIC_LABEL = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)")


def load_webhooks_file(path: Path) -> WebhookSettings:
    """What a file says. Raises ValueError, with a line per mistake."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"{path} has more than {MAX_FILE_BYTES} bytes")
        return parse_webhooks(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read: {error}") from error


def parse_webhooks(text: str, file: str) -> WebhookSettings:
    """What a text says. Raises ValueError."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{file}:{line}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{file}:1: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ValueError(f"{file}:1: the file is nested too deeply") from None
    reading = _Reading()
    settings = reading.settings(root)
    if reading.mistakes or settings is None:
        lines = [f"{file}:{mistake.line}: {mistake}" for mistake in sorted(reading.mistakes, key=lambda mistake: mistake.line)]
        raise ValueError("\n".join(lines))
    return settings


class _Reading:
    """One reading of a file; what is wrong is gathered."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []
        self._allowed: tuple[Network, ...] = ()
        self._allow_http = False

    def settings(self, root: yaml.Node | None) -> WebhookSettings | None:
        if root is None:
            self.mistakes.append(Mistake(None, "the file must hold `endpoints:` with an endpoint per key"))
            return None
        fields = self._fields(root, "the file", _FIELDS)
        if "endpoints" not in fields and not self.mistakes:
            self.mistakes.append(Mistake(root, "endpoints is required: an endpoint per key"))
        # First what the check of an endpoint's address needs.
        self._allow_http = bool(self._value(fields, "allow_http", lambda node: yes_or_no("allow_http", node)))
        self._allowed = tuple(network for node in self._listed(fields, "allow_private") if (network := self._tried(_network, node)) is not None)
        found: dict[str, Any] = {
            "queue": self._value(fields, "queue", lambda node: _name("queue", QUEUE_PATTERN, node)),
            "look_back": self._value(fields, "look_back", lambda node: read_duration("look_back", node, timedelta(0), timedelta(days=7))),
            "timeout": self._value(fields, "timeout", lambda node: read_duration("timeout", node, timedelta(seconds=1), timedelta(minutes=1))),
            "concurrency": self._value(fields, "concurrency", lambda node: whole("concurrency", node, 1, 1_000)),
        }
        endpoints = self._endpoints(fields["endpoints"]) if "endpoints" in fields else ()
        given = {name: value for name, value in found.items() if value is not None}
        return WebhookSettings(endpoints=endpoints, allow_private=self._allowed, **given)

    def _endpoints(self, node: yaml.Node) -> tuple[Endpoint, ...]:
        entries = self._tried(_endpoint_nodes, node) or []
        return tuple(endpoint for key, value in entries if (endpoint := self._endpoint(key, value)) is not None)

    def _endpoint(self, key: yaml.ScalarNode, node: yaml.Node) -> Endpoint | None:
        before = len(self.mistakes)
        name = self._tried(lambda node: _name("an endpoint's name", GROUP_PATTERN, node), key)
        fields = self._fields(node, key.value, _ENDPOINT_FIELDS)
        for required in ("url", "secrets", "queues"):
            if required not in fields and len(self.mistakes) == before:
                self.mistakes.append(Mistake(key, f"{key.value}: {required} is required, such as {_EXAMPLES[required]}"))
        url = self._value(fields, "url", self._url)
        secrets = [self._tried(_secret, entry) for entry in self._listed(fields, "secrets", MAX_SECRETS)]
        queues = [self._tried(_pattern, entry) for entry in self._listed(fields, "queues")]
        events = [self._tried(_event, entry) for entry in self._listed(fields, "events")] if "events" in fields else list(EVENTS)
        labels = self._labels(fields["labels"]) if "labels" in fields else {}
        if len(self.mistakes) > before or name is None or url is None:
            return None
        return Endpoint(
            name=name,
            url=url,
            secrets=tuple(secret for secret in secrets if secret is not None),
            queues=tuple(QueuePattern(queue) for queue in queues if queue is not None),
            events=frozenset(event for event in events if event is not None),
            labels=labels,
        )

    def _labels(self, node: yaml.Node) -> Mapping[str, str]:
        entries = self._tried(lambda node: pairs(node, "labels must hold a value per key"), node) or []
        return {
            name: text
            for key, value in entries
            if (name := self._tried(lambda node: _name("a label's key", LABEL_PATTERN, node), key)) is not None
            and (text := self._tried(word, value)) is not None
        }

    def _url(self, node: yaml.Node) -> str:
        """The address, which every part of the program then takes for granted."""
        text = word(node)
        if not text.isascii() or not text.isprintable() or any(char in text for char in ' \\"<>^`{|}'):
            raise Mistake(node, "url must be of printable ASCII characters without spaces; a host of others is written xn--…")
        try:
            parts = urlsplit(text)
            parts.port  # noqa: B018  # it is checked when it is read
        except ValueError:
            # Python's own words quote the text, where a password may stand.
            raise Mistake(node, "url is no address such as https://shop.example:8443/jobs") from None
        if parts.scheme != "https" and not (parts.scheme == "http" and self._allow_http):
            raise Mistake(node, "url must begin with https://; http:// is taken with allow_http: true alone")
        if parts.username is not None or parts.password is not None:
            raise Mistake(node, "url must have no user and no password: anybody who reads the file reads them, and the signature says who sends")
        if parts.fragment or text.endswith("#"):
            raise Mistake(node, "url must have nothing behind a #, which is never sent")
        self._check_host(node, parts)
        return text

    def _check_host(self, node: yaml.Node, parts: SplitResult) -> None:
        host = parts.hostname or ""
        if not host or "%" in host or parts.port == 0:
            raise Mistake(node, "url must name a host, and a port other than 0 if it names one")
        if _PORT.sub("", parts.netloc).lower() != (f"[{host}]" if ":" in host else host):
            raise Mistake(node, "url: brackets stand around an address of IPv6 and nothing else")
        try:
            ip_address(host)
        except ValueError:
            if _NUMERIC_LABEL.fullmatch(host.rstrip(".").rpartition(".")[2]):
                raise Mistake(node, f"url: {host} is neither a name nor an address; write an address as 192.0.2.1") from None
            if not _HOST.fullmatch(host):
                raise Mistake(node, f"url: {host[:80]} is no name of a host") from None
            return
        if not is_allowed(host, self._allowed):
            raise Mistake(node, f"url: {host} is no public address; a network that is meant must stand in allow_private")

    # Fields ----------------------------------------------------------------------------------------------------------------------------------------

    def _fields(self, node: yaml.Node, what: str, known: tuple[str, ...]) -> dict[str, yaml.Node]:
        found: dict[str, yaml.Node] = {}
        for key, value in self._tried(lambda node: pairs(node, f"{what} must hold some of {', '.join(known)}"), node) or []:
            if key.value in known:
                found[key.value] = value
            else:
                self.mistakes.append(Mistake(key, f"{key.value!r} is not known here; there are {', '.join(known)}"))
        return found

    def _value(self, fields: Mapping[str, yaml.Node], name: str, read: Callable[[yaml.Node], Any]) -> Any:
        return self._tried(read, fields[name]) if name in fields else None

    def _listed(self, fields: Mapping[str, yaml.Node], name: str, most: int = _MAX_LISTED) -> list[yaml.Node]:
        return (self._tried(lambda node: sequence(name, node, most, _EXAMPLES[name]), fields[name]) or []) if name in fields else []

    def _tried(self, read: Callable[[Any], Any], node: yaml.Node) -> Any:
        try:
            return read(node)
        except Mistake as mistake:
            self.mistakes.append(mistake)
            return None


def _endpoint_nodes(node: yaml.Node) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    found = pairs(node, "endpoints must hold an endpoint per key")
    if not 1 <= len(found) <= MAX_ENDPOINTS:
        raise Mistake(node, f"endpoints must hold 1 to {MAX_ENDPOINTS} endpoints")
    return found


def _name(what: str, pattern: str, node: yaml.Node) -> str:
    text = word(node)
    if not re.fullmatch(pattern, text, re.ASCII):
        raise Mistake(node, f"{what} must be of the form {pattern}; it is {text[:80]!r}")
    return text


def _pattern(node: yaml.Node) -> str:
    text = word(node)
    if text != "*" and not re.fullmatch(QUEUE_PATTERN, text.removesuffix("*"), re.ASCII):
        raise Mistake(node, f"queues: {text[:80]!r} must name a queue, a prefix with a star behind it, or * for all queues, such as {_EXAMPLES['queues']}")
    return text


def _event(node: yaml.Node) -> str:
    text = word(node)
    if text not in EVENTS:
        raise Mistake(node, f"events: {text[:80]!r} is no event; there are {', '.join(EVENTS)}")
    return text


def _network(node: yaml.Node) -> Network:
    text = word(node)
    try:
        return ip_network(text)
    except ValueError as error:
        raise Mistake(node, f"allow_private: {text[:80]!r} is no network, such as 10.0.0.0/8: {error}") from None


def _secret(node: yaml.Node) -> Secret:
    """Where a secret is; it is looked at, so that a mistake shows now."""
    entries = pairs(node, f"a secret must be `file: PATH` or `env: NAME`, such as {_EXAMPLES['secrets']}; it never stands here itself")
    if len(entries) != 1 or entries[0][0].value not in ("file", "env"):
        raise Mistake(node, f"a secret must be one of `file: PATH` and `env: NAME`, such as {_EXAMPLES['secrets']}")
    key, value = entries[0]
    if word(value).startswith(PREFIX):
        raise Mistake(value, f"secrets: behind {key.value}: stands a secret itself, and not where one is; change it, since others may have read it here")
    secret = Secret(file=Path(word(value))) if key.value == "file" else Secret(variable=word(value))
    try:
        secret.key()
    except SecretUnreadable as error:
        raise Mistake(node, f"secrets: {error}") from None
    return secret
