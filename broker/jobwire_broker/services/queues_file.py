"""Policies from a YAML file: read and checked in full, with the line of every mistake, before anything is applied.

The fields are those of QueuePolicy by their names in JSON (`maxDepth`); `class` stands for `queueClass`, and `paused` and `groups` beside them. Durations are
`500ms`, `30s`, `5m`, `2h` or `7d`, classes and priorities words in lower case.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from jobwire.v1 import policy_pb2, queue_service_pb2

from jobwire_broker.config import NamedGroup, NamedPolicy
from jobwire_broker.errors import BrokerError, InvalidField, StoreFault, StoreFull, StoreUnavailable
from jobwire_broker.names import check_group, check_queue
from jobwire_broker.rules.registry import Registry
from jobwire_broker.services.groups import give_rules, own_limit, weight_of
from jobwire_broker.services.policies import change_policy, check_policy

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 1 << 20
MAX_QUEUES = 10_000
#: How often a store that is away or full is asked again.
_RETRY_S = 1.0
_DURATION = re.compile(r"(\d+)(ms|s|m|h|d)")
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_CLASSES = {name.removeprefix("QUEUE_CLASS_").lower(): number for name, number in policy_pb2.QueueClass.items() if number} | {
    "normal": policy_pb2.QUEUE_CLASS_MEDIUM
}
_PRIORITIES = {"critical": 0, "high": 1, "normal": 5, "medium": 5, "low": 10, "batch": 20}
_GROUP_FIELDS = ("express", "limit", "paused", "weight")
_WHOLE = (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64)


class Mistake(Exception):
    """Raised where the file says what can't be. `node` is the place."""

    def __init__(self, node: yaml.Node, message: str) -> None:
        super().__init__(message)
        self.node = node


def load_queues_file(path: Path) -> tuple[NamedPolicy, ...]:
    """The policies of a file. Raises ValueError, with a line per mistake."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"{path} has more than {MAX_FILE_BYTES} bytes")
        return parse_queues(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read: {error}") from error


def parse_queues(text: str, file: str) -> tuple[NamedPolicy, ...]:
    """The policies that a text says. Raises ValueError."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{file}:{line}: {error.problem or error.context}") from error
    found: list[NamedPolicy] = []
    mistakes: list[Mistake] = []
    try:
        entries = _queues_of(root)
    except Mistake as mistake:
        entries, mistakes = [], [mistake]
    for name, node in entries:
        found.append(_queue(name, node, mistakes))
    if mistakes:
        raise ValueError("\n".join(f"{file}:{mistake.node.start_mark.line + 1}: {mistake}" for mistake in mistakes))
    return tuple(found)


# Nodes -------------------------------------------------------------------------------------------------------------------------------------------------


def _queues_of(root: yaml.Node | None) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    if root is None:
        return []
    pairs = _pairs(root, "the file must hold `queues:` with a queue per key")
    for key, _ in pairs:
        if key.value != "queues":
            raise Mistake(key, f"{key.value!r} is not known here; the file holds `queues:`")
    queues = [pair for _, node in pairs if not _is_empty(node) for pair in _pairs(node, "queues must hold a queue per key")]
    if len(queues) > MAX_QUEUES:
        raise Mistake(queues[MAX_QUEUES][0], f"a file may hold {MAX_QUEUES} queues")
    return queues


def _queue(name: yaml.ScalarNode, node: yaml.Node, mistakes: list[Mistake]) -> NamedPolicy:
    """One queue's policy. What is wrong with it is added to `mistakes`, field by field."""
    rules, paused = policy_pb2.QueuePolicy(), None
    places: dict[str, yaml.Node] = {"": name}
    pairs = _entry(name, node, partial(check_queue, field="a queue's name"), "the fields of a policy", mistakes)
    groups: tuple[NamedGroup, ...] = ()
    for key, value in pairs:
        try:
            if key.value == "paused":
                paused = _yes_or_no(key.value, value)
            elif key.value == "groups":
                of_groups = [] if _is_empty(value) else _pairs(value, "groups must hold a group per key")
                groups = tuple(_group(name.value, *pair, mistakes) for pair in of_groups)
            else:
                _set_field(rules, "queueClass" if key.value == "class" else key.value, key, value, "", places)
        except Mistake as mistake:
            mistakes.append(mistake)
    mistakes += _out_of_bounds(name.value, rules, places)
    return NamedPolicy(name.value, rules, paused, groups)


def _group(queue: str, name: yaml.ScalarNode, node: yaml.Node, mistakes: list[Mistake]) -> NamedGroup:
    """One group's rules. What is wrong with them is added to `mistakes`."""
    rules, paused, path = queue_service_pb2.Group(), None, f"groups[{name.value}]"
    places: dict[str, yaml.Node] = {"": name, path: name}
    pairs = _entry(name, node, partial(check_group, field="a group's name"), f"some of {', '.join(_GROUP_FIELDS)}", mistakes)
    for key, value in pairs:
        try:
            if key.value not in _GROUP_FIELDS:
                raise Mistake(key, f"{key.value!r} is no field of a group; there are {', '.join(_GROUP_FIELDS)}")
            if key.value == "paused":
                paused = _yes_or_no(key.value, value)
            else:
                _set_field(rules, key.value, key, value, f"{path}.", places)
        except Mistake as mistake:
            mistakes.append(mistake)
    for check in (weight_of, own_limit):
        try:
            check(rules, path)
        except InvalidField as error:
            mistakes.append(Mistake(_place_of(error.field, places), f"{queue}: {error.message}"))
    return NamedGroup(name.value, rules, paused)


def _entry(
    name: yaml.ScalarNode, node: yaml.Node, check_name: Callable[[str], object], content: str, mistakes: list[Mistake]
) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    """What stands under the name of a queue or a group. None when that or the name is wrong, which is added to `mistakes`."""
    try:
        check_name(name.value)
        return [] if _is_empty(node) else _pairs(node, f"{name.value} must hold {content}")
    except InvalidField as error:
        mistakes.append(Mistake(name, error.message))
    except Mistake as mistake:
        mistakes.append(mistake)
    return []


def _out_of_bounds(queue: str, rules: policy_pb2.QueuePolicy, places: Mapping[str, yaml.Node]) -> list[Mistake]:
    """What the policy's own check finds. It tells one field at a time, so that one is taken out and the rest is checked again."""
    found: list[Mistake] = []
    left: Any = policy_pb2.QueuePolicy()  # fields are named by texts here
    left.CopyFrom(rules)
    for _ in rules.DESCRIPTOR.fields:
        try:
            check_policy(left)
        except InvalidField as error:
            found.append(Mistake(_place_of(error.field, places), f"{queue}: {error.message}"))
            left.ClearField(re.split(r"[.\[]", error.field)[0])
        else:
            break
    return found


def _yes_or_no(name: str, node: yaml.Node) -> bool:
    if node.tag != "tag:yaml.org,2002:bool":
        raise Mistake(node, f"{name} must be true or false")
    return str(node.value).lower() in ("true", "yes", "on")


def _place_of(path: str, places: Mapping[str, yaml.Node]) -> yaml.Node:
    """Where in the file a field stands, or the nearest thing around it."""
    while path and path not in places:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return places[path]


def _pairs(node: yaml.Node, sentence: str) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        raise Mistake(node, sentence)
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise Mistake(key, "a key must be a word")
        if key.value in seen:
            raise Mistake(key, f"{key.value!r} stands here a second time")
        seen.add(key.value)
    return list(node.value)


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


# Fields ------------------------------------------------------------------------------------------------------------------------------------------------


def _set_field(message: Any, json_name: str, key: yaml.ScalarNode, node: yaml.Node, path: str, places: dict[str, yaml.Node]) -> None:
    """Set one field of a message, and note where in the file its path is."""
    fields = {field.json_name: field for field in message.DESCRIPTOR.fields}
    field = fields.get(json_name)
    if field is None:
        beside = {"paused", "groups"} if "queueClass" in fields else set()
        names = ", ".join(sorted({"class" if name == "queueClass" else name for name in fields} | beside))
        raise Mistake(key, f"{key.value!r} is no field; there are {names}")
    path += field.name
    places[path] = key
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        for name, value in _pairs(node, f"{json_name} must hold a name per key"):
            entry = f"{path}[{name.value}]"
            places[entry] = name
            _fill(getattr(message, field.name)[name.value], value, entry, places)
    elif field.is_repeated:
        if not isinstance(node, yaml.SequenceNode):
            raise Mistake(node, f"{json_name} must be a list")
        for i, element in enumerate(node.value):
            places[f"{path}[{i}]"] = element
            getattr(message, field.name).append(_duration(element) if field.message_type else _word(element))
    elif field.message_type is not None and field.message_type.full_name == Duration.DESCRIPTOR.full_name:
        getattr(message, field.name).CopyFrom(_duration(node))
    elif field.message_type is not None:
        # A message that is there and empty says as much as one that is not there.
        getattr(message, field.name).SetInParent()
        _fill(getattr(message, field.name), node, path, places)
    else:
        try:
            setattr(message, field.name, _scalar(field, node))
        except (ValueError, OverflowError) as error:
            raise Mistake(node, f"{json_name} is out of its bounds: {node.value}") from error


def _fill(message: Any, node: yaml.Node, path: str, places: dict[str, yaml.Node]) -> None:
    names = ", ".join(field.json_name for field in message.DESCRIPTOR.fields)
    for key, value in _pairs(node, f"{path.rpartition('.')[2]} must hold some of {names}, each with its value, for example in braces"):
        _set_field(message, key.value, key, value, f"{path}.", places)


def _scalar(field: FieldDescriptor, node: yaml.Node) -> Any:
    text = _word(node)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _yes_or_no(field.json_name, node)
    if field.enum_type is not None:
        if text.lower() not in _CLASSES:
            raise Mistake(node, f"{text!r} is no class; there are critical, high, medium, low, batch")
        return _CLASSES[text.lower()]
    if field.name == "priority" and text.lower() in _PRIORITIES:
        return _PRIORITIES[text.lower()]
    is_whole = field.type in _WHOLE
    wanted = ("tag:yaml.org,2002:int",) if is_whole else ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
    if node.tag not in wanted:
        words = f" or one of {', '.join(_PRIORITIES)}" if field.name == "priority" else ""
        raise Mistake(node, f"{field.json_name} must be a {'whole ' if is_whole else ''}number{words}; it is {text!r}")
    value = yaml.SafeLoader("").construct_object(node)
    return value if is_whole else float(value)


def _word(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or _is_empty(node):
        raise Mistake(node, "a value must stand here")
    return str(node.value)


def _duration(node: yaml.Node) -> Duration:
    text = _word(node)
    match = _DURATION.fullmatch(text)
    if match is None and text != "0":
        raise Mistake(node, f"{text!r} is no duration; write 500ms, 30s, 5m, 2h or 7d")
    duration = Duration()
    milliseconds = int(match[1]) * _UNITS_MS[match[2]] if match else 0
    if milliseconds > 10**15:
        raise Mistake(node, f"{text} is too long")
    duration.FromMilliseconds(milliseconds)
    return duration


# Applying ----------------------------------------------------------------------------------------------------------------------------------------------


async def apply_policies(registry: Registry, policies: Sequence[NamedPolicy]) -> None:
    """Let each queue have its policy and nothing else, and its groups their rules, however long the store is away or full. What they have already is left as it
    is. A queue to which the store can't give its policy is logged and passed over.
    """
    failed = 0
    for policy in policies:
        try:
            await _apply(registry, policy)
        except (BrokerError, StoreFault) as error:
            failed += 1
            log.error("queues.not_applied queue=%s error=%s", policy.queue, error)
    log.info("queues.applied count=%d", len(policies) - failed)


async def _apply(registry: Registry, policy: NamedPolicy) -> None:
    while True:
        try:
            await change_policy(registry, policy.queue, lambda current: policy.rules, policy.paused)
            for group in policy.groups:
                await give_rules(registry, policy.queue, *group)
            return
        except StoreUnavailable:
            pass
        except StoreFull as error:
            log.warning("queues.store_full queue=%s error=%s", policy.queue, error)
        await asyncio.sleep(_RETRY_S)
