"""What commands print: tables for people, JSON for programs.

JSON has the same member names as REST and the event streams (lowerCamelCase, state words in lower case, members without a value left out). One value is one
line; a list, and a stream, is one line per item (NDJSON).
"""

import base64
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from jobwire_client import Attempt, Change, ClassStats, Enqueued, Group, Job, LogLine, NotJson, Queue, QueueCounts, ServerInfo, WorkerSession
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobwire_cli.durations import short

_PIPE_WIDTH = 400

Members = dict[str, Any]

_STYLES = {"completed": "green", "failed": "red", "cancelled": "yellow", "expired": "yellow", "active": "cyan", "removed": "dim"}
COUNTS = ("waiting", "active", "delayed", "blocked", "completed", "failed", "cancelled", "expired")
_NUMBERS = frozenset({*COUNTS, "workers", "prio", "total", "attempt"})


def failure_line(*parts: str) -> str:
    """Reason, type and message of a failure in one line, each once: those that Jobwire gives have the same word for the first two."""
    return ": ".join(filter(None, dict.fromkeys(parts)))


def write_json(items: Iterable[Members]) -> None:
    """One line of JSON for each."""
    for item in items:
        sys.stdout.write(json_text(item) + "\n")
    sys.stdout.flush()


def json_text(value: object, *, indent: int | None = None) -> str:
    """A value as JSON, all in ASCII where stdout can't take it else. That may be half a surrogate pair, which a worker may send as an escape."""
    separators = (",", ":") if indent is None else None
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent, separators=separators)
    return text


def write_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, empty: str) -> None:
    """A table, or the sentence `empty` when there are no rows."""
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    if cells:
        screen = console()
        screen.print(_lines(columns, cells, screen.width) or _folded(columns, cells))
    else:
        write_line(empty)


def _lines(columns: Sequence[str], rows: Sequence[Sequence[Text]], width: int) -> Text | None:
    """A table whose rows are one line each; None when one is not, or has no room. It looks as that of `_folded`, which takes five times as long."""
    table = [[Text(column, style="bold") for column in columns], *rows]
    widths = [max(cell.cell_len for cell in column) for column in zip(*table, strict=True)]
    if sum(widths) + 2 * (len(columns) - 1) > width or any("\n" in cell.plain or "\t" in cell.plain for row in rows for cell in row):
        return None
    lines = Text(no_wrap=True, overflow="ignore")
    for number, row in enumerate(table):
        for place, (column, cell, wide) in enumerate(zip(columns, row, widths, strict=True)):
            space = " " * (wide - cell.cell_len)
            before, behind = (space, "") if column in _NUMBERS else ("", space)
            lines.append("  " * bool(place) + before).append(cell.plain, cell.style or None).append(behind)
        lines.append("\n" * (number < len(rows)))
    return lines


def _folded(columns: Sequence[str], rows: Iterable[Sequence[Text]]) -> Table:
    """A table that breaks what has no room into several lines."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in _NUMBERS else "left", overflow="fold", no_wrap=column in ("job", "queue", *_NUMBERS))
    for row in rows:
        table.add_row(*row)
    return table


def write_fields(fields: Iterable[tuple[str, str | Text]]) -> None:
    """Names and values below each other."""
    grid = Table.grid(padding=(0, 2))
    for name, value in fields:
        grid.add_row(Text(name, style="dim"), value if isinstance(value, Text) else Text(value))
    console().print(grid)


def write_line(line: str) -> None:
    """One line on stdout."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def console() -> Console:
    """Standard output. In a pipe lines are not broken at 80 columns, since nobody but a program counts them."""
    found = Console()
    return found if found.is_terminal else Console(width=_PIPE_WIDTH)


def state_text(state: str) -> Text:
    """A state in its color."""
    return Text(state, style=_STYLES.get(state, ""))


def age(moment: datetime | None) -> str:
    """How long ago, for a table."""
    return "-" if moment is None else short((datetime.now(UTC) - moment).total_seconds())


def enqueued_json(made: Enqueued) -> Members:
    """What became of an enqueue."""
    return filled(name=made.name, queue=made.queue, id=made.id, verdict=made.verdict, error=None if made.error is None else str(made.error))


def job_json(job: Job) -> Members:
    """A job's members."""
    progress = job.progress and filled(percent=job.progress.percent, message=job.progress.message, **_content("data", job.progress.data))
    failure = job.failure and filled(
        type=job.failure.type or None, message=job.failure.message or None, stack=job.failure.stack or None, reason=job.failure.reason or None
    )
    resolution = job.resolution and filled(note=job.resolution.note or None, resolveTime=date(job.resolution.time))
    numbers = {"revision": job.revision, "priority": job.priority, "attempt": job.attempt, "maxAttempts": job.max_attempts}
    return {
        **filled(name=job.name, queue=job.queue, id=job.id, jobName=job.job_name or None, state=job.state),
        **numbers,
        **filled(token=job.token, losses=job.losses, progress=progress, **_content("payload", job.payload), **_content("result", job.result), failure=failure),
        **filled(createTime=date(job.create_time), dueTime=date(job.due_time), startTime=date(job.start_time), finishTime=date(job.finish_time)),
        **filled(worker=job.worker or None, **_rules(job), fingerprint=job.fingerprint or None, resolution=resolution),
        **({"cancelRequested": True, "cancelDelivered": job.cancel_delivered} if job.cancel_requested else {}),
        **filled(cancelStage=job.cancel_stage or None, cancelTime=date(job.cancel_time), expireTime=date(job.expire_time)),
        **filled(**_content("checkpoint", job.checkpoint), logLines=job.log_lines or None),
        **filled(timeout=seconds(job.timeout), totalTimeout=seconds(job.total_timeout), attempts=[_attempt_json(attempt) for attempt in job.attempts] or None),
    }


def _attempt_json(attempt: Attempt) -> Members:
    failure = attempt.failure and filled(**{name: getattr(attempt.failure, name) or None for name in ("type", "message", "stack", "reason")})
    times = filled(startTime=date(attempt.start_time), endTime=date(attempt.end_time))
    return {"number": attempt.number, "token": attempt.token, **times, **filled(worker=attempt.worker or None, end=attempt.end or None, failure=failure)}


def _rules(job: Job) -> Members:
    labels, required = dict(job.labels) or None, dict(job.required_labels) or None
    return {"group": job.group or None, "labels": labels, "requiredLabels": required, "units": job.units if job.units > 1 else None}


def change_json(change: Change) -> Members:
    """A change of a watched job: its type, and the job's members; with `log` its lines."""
    if change.type == "log":
        return {"type": "log", "name": change.job.name, "queue": change.job.queue, "id": change.job.id, "lines": [line_json(line) for line in change.lines]}
    if change.type == "gap":
        return {"type": "gap", "queue": change.job.queue}
    if change.type == "not_found":
        return {"type": "not_found", "name": change.job.name}
    return {"type": change.type, **job_json(change.job)}


def queue_json(queue: Queue) -> Members:
    """A queue's members."""
    return {
        "name": f"queues/{queue.name}",
        "queue": queue.name,
        "paused": queue.paused,
        "workers": queue.workers,
        **filled(oldestWaitingAge=seconds(queue.oldest_waiting_age), oldestActiveAge=seconds(queue.oldest_active_age), moreWorkersHelp=queue.more_workers_help),
        **_rates(queue),
        **filled(policy=queue.policy.to_json() or None),
        "counts": counts_json(queue.counts),
    }


def _rates(queue: Queue) -> Members:
    # Only an answer about one queue has them.
    return {} if queue.more_workers_help is None else {"rateIn": queue.rate_in, "rateOut": queue.rate_out}


def counts_json(counts: QueueCounts) -> Members:
    """The members of counts."""
    return {_camel(name): getattr(counts, name) for name in QueueCounts.__dataclass_fields__}


def class_json(stats: ClassStats) -> Members:
    """A class's members."""
    return {
        "queueClass": stats.queue_class,
        "queues": list(stats.queues),
        "paused": stats.paused,
        "started": stats.started,
        "startedLate": stats.started_late,
        "counts": counts_json(stats.counts),
    }


def group_json(queue: str, group: Group) -> Members:
    """A group's members."""
    members: Members = {
        "name": f"queues/{queue}/groups/{group.name}",
        "group": group.name,
        "waiting": group.waiting,
        "activeUnits": group.active_units,
        "paused": group.paused,
        "weight": group.weight,
        "express": group.express,
    }
    if group.limit is not None:
        rate = group.limit.rate
        members["limit"] = filled(
            concurrency=group.limit.concurrency,
            rate=None if rate is None else {"count": rate.count, "period": seconds(rate.period), "burst": rate.burst},
        )
    return members | filled(limitedUntil=date(group.limited_until))


def worker_json(worker: WorkerSession) -> Members:
    """A worker's members."""
    return filled(
        session=worker.session,
        instanceId=worker.instance_id,
        queues=list(worker.queues),
        active=worker.active,
        concurrency=worker.concurrency,
        sdk=worker.sdk or None,
        brokerId=worker.broker_id or None,
        connectTime=date(worker.connect_time),
        reserved=[filled(queue=kept.queue, queueClass=kept.queue_class, slots=kept.slots) for kept in worker.reserved] or None,
    )


def server_json(server: ServerInfo) -> Members:
    """A broker's members."""
    return {
        "brokerId": server.broker_id,
        "version": server.version,
        "storeAvailable": server.store_available,
        "storeVersion": server.store_version,
        "diskDurability": server.disk_durability,
        "uptimeSeconds": server.uptime_s,
    }


def line_json(line: LogLine) -> Members:
    """One logged line."""
    members: Members = {"sequence": line.sequence, "level": line.level, "message": line.message, "timeMs": round(line.time.timestamp() * 1000)}
    return members | ({"cursor": line.cursor, "attempt": line.attempt} if line.cursor else {})


def _content(name: str, value: object) -> Members:
    if isinstance(value, bytes):
        return {f"{name}Base64": base64.b64encode(value).decode()}
    if isinstance(value, NotJson):
        return {f"{name}Text": str(value)}
    return {name: value}


def seconds(span: timedelta | None) -> str | None:
    """A length of time as proto JSON writes it: seconds with an `s`."""
    return None if span is None else f"{span.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"


def date(moment: datetime | None) -> str | None:
    """A date as proto JSON writes it."""
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


def labels_text(labels: Mapping[str, str]) -> str:
    """Labels for people."""
    return " ".join(f"{key}={value}" for key, value in labels.items())


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def filled(**members: Any) -> Members:
    """The members that have a value."""
    return {name: value for name, value in members.items() if value is not None}
