"""What can be followed: jobs, queues, the groups and the labels in them, and the counts of all queues."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

from jobwire_broker.errors import InvalidField
from jobwire_broker.labels import check_labels
from jobwire_broker.names import check_group, check_queue, id_to_bytes, id_to_text


class Topic(NamedTuple):
    """One topic. Without a queue: the counts of all queues. With a queue alone: all its jobs."""

    queue: str = ""
    raw_id: bytes = b""
    group: str = ""
    label: tuple[str, str] | None = None

    @property
    def part(self) -> str:
        """Which part of the queue it is, as scopes write it: `ID`, `groups/GROUP`, `labels/KEY=VALUE` with the value percent-encoded; empty for all of it."""
        if self.raw_id:
            return id_to_text(self.raw_id)
        if self.group:
            return f"groups/{self.group}"
        return f"labels/{self.label[0]}={quote(self.label[1], safe='')}" if self.label else ""


ALL_QUEUES = "queues"


def parse_topic(name: str, field: str) -> Topic:
    """Read a topic. Raises InvalidField."""
    if name == ALL_QUEUES:
        return Topic()
    root, _, rest = name.partition("/")
    queue, _, rest = rest.partition("/")
    kind, slash, value = rest.partition("/")
    if root == ALL_QUEUES and name.count("/") == 1:
        return Topic(check_queue(queue, field))
    if root == ALL_QUEUES and slash and kind == "jobs":
        return Topic(check_queue(queue, field), raw_id=id_to_bytes(value, field))
    if root == ALL_QUEUES and slash and kind == "groups":
        return Topic(check_queue(queue, field), group=check_group(value, field))
    key, is_pair, text = value.partition("=")
    if root == ALL_QUEUES and kind == "labels" and is_pair:
        check_labels({key: text}, field, 1)
        return Topic(check_queue(queue, field), label=(key, text))
    shown = name if len(name) <= 64 else name[:61] + "..."
    raise InvalidField(
        f"{field} must be queues, queues/{{queue}}, or behind that /jobs/{{id}}, /groups/{{group}} or /labels/{{key}}={{value}}; it is {shown!r}", field=field
    )
