"""Values of a YAML file with their places in it."""

import re
from datetime import timedelta

import yaml

_DURATION = re.compile(r"(\d{1,15})(ms|s|m|h|d)")
_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_EMPTY = "tag:yaml.org,2002:null"


class Mistake(Exception):
    """Raised where the file says what can't be. `node` is the place; None: the file as a whole."""

    def __init__(self, node: yaml.Node | None, message: str) -> None:
        super().__init__(message)
        self.node = node

    @property
    def line(self) -> int:
        """Where, from 1."""
        return 1 if self.node is None else self.node.start_mark.line + 1


def pairs(node: yaml.Node, sentence: str) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    """The keys and values of a mapping. Raises Mistake with the sentence where there is none."""
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


def sequence(name: str, node: yaml.Node, most: int, example: str) -> list[yaml.Node]:
    """The elements of a list. Raises Mistake, with the example, where it is none, or has none or too many."""
    if not isinstance(node, yaml.SequenceNode) or not 1 <= len(node.value) <= most:
        raise Mistake(node, f"{name} must be a list of 1 to {most}, such as {example}")
    return list(node.value)


def word(node: yaml.Node) -> str:
    """A value as it is written. Raises Mistake where there is none."""
    if not isinstance(node, yaml.ScalarNode) or node.tag == _EMPTY:
        raise Mistake(node, "a value must stand here")
    return str(node.value)


def yes_or_no(name: str, node: yaml.Node) -> bool:
    """True or false. Raises Mistake."""
    if node.tag != "tag:yaml.org,2002:bool":
        raise Mistake(node, f"{name} must be true or false")
    return str(node.value).lower() in ("true", "yes", "on")


def whole(name: str, node: yaml.Node, low: int, high: int) -> int:
    """A whole number. Raises Mistake."""
    text = word(node)
    if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise Mistake(node, f"{name} must be a whole number from {low} to {high}; it is {text[:80]!r}")
    return int(text)


def duration(name: str, node: yaml.Node, low: timedelta, high: timedelta) -> timedelta:
    """A length of time. Raises Mistake."""
    text = word(node)
    match = _DURATION.fullmatch(text)
    if match is None and text != "0":
        raise Mistake(node, f"{name}: {text[:80]!r} is no duration; write 500ms, 30s, 5m, 2h or 7d")
    seconds = int(match[1]) * _UNITS_S[match[2]] if match else 0
    if not low.total_seconds() <= seconds <= high.total_seconds():
        raise Mistake(node, f"{name} must be from {low} to {high}; it is {text}")
    return timedelta(seconds=seconds)
