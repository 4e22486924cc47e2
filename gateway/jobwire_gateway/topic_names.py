"""Which topics a request asks for, and what they may be.

queues/{queue}/jobs/{id}    one job, to its end
queues/{queue}              all changes of jobs in one queue
queues/{queue}/groups/{group}         those of one group
queues/{queue}/labels/{key}={value}   those with one label
"""

from collections.abc import Sequence
from urllib.parse import parse_qsl

from starlette.types import Scope

from jobwire_gateway.names import QUEUES, group_name, job_name, label_name, queue_name
from jobwire_gateway.problems import Problem, Violation
from jobwire_gateway.requests import invalid

CURSOR_PARAMETERS = ("last_event_id", "lastEventId")

_MAX_FIELDS = 2_000
"""More than any configuration allows, and few enough to be counted at once."""


def topic_name(text: str) -> str:
    """Check one topic.

    Raises:
        Problem: 400, there is no such topic.
    """
    match text.split("/"):
        case ["queues", queue]:
            return queue_name(queue)
        case ["queues", queue, "jobs", job_id]:
            return job_name(queue, job_id)
        case ["queues", queue, "groups", group]:
            return group_name(queue, group)
        case ["queues", queue, "labels", *label]:
            return label_name(queue, "/".join(label))
        case [one] if one == QUEUES:
            raise _refused("the counts of all queues have a stream of their own: GET /v1/stats/stream")
        case _:
            raise _refused(f"{_shown(text)} is no topic; one is queues/QUEUE, or behind that /jobs/ID, /groups/GROUP or /labels/KEY=VALUE")


def topic_names(texts: Sequence[object], limit: int) -> list[str]:
    """Check a list of topics; one that is there twice counts once.

    Raises:
        Problem: 400, none, too many, or one that is no topic.
    """
    if not texts:
        raise _refused("at least one is needed, for example queues/QUEUE/jobs/ID")
    if len(texts) > limit:
        raise _refused(f"at most {limit} on one stream")
    if not all(isinstance(text, str) for text in texts):
        raise _refused("each is a string")
    return list(dict.fromkeys(topic_name(str(text)) for text in texts))


def topics_of_query(scope: Scope, limit: int) -> tuple[list[str], str]:
    """Read `?topic=…&topic=…`. Gives the topics, and the cursor or nothing.

    Raises:
        Problem: 400.
    """
    try:
        pairs = parse_qsl(
            scope["query_string"].decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(scope["query_string"]),
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except (UnicodeError, ValueError):
        raise Problem(400, "The query cannot be read.", reason="INVALID_FIELD") from None
    texts = [value for name, value in pairs if name == "topic"]
    cursors = [value for name, value in pairs if name in CURSOR_PARAMETERS]
    if strange := next((name for name, _ in pairs if name not in ("topic", *CURSOR_PARAMETERS)), None):
        raise invalid(strange[:60], f"is no query parameter here; there is: {', '.join(('topic', *CURSOR_PARAMETERS))}")
    if len(cursors) > 1:
        raise invalid(CURSOR_PARAMETERS[0], "is there twice")
    return topic_names(texts, limit), cursors[0] if cursors else ""


def _refused(description: str) -> Problem:
    return Problem(400, f"topic: {description}.", reason="INVALID_FIELD", violations=(Violation("topic", description),))


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:60] + "…")
