"""How servers log: on stderr, one line for an event, for people or as JSON.

The servers' own code says `log.info("worker.attached session=%s epoch=%d", session, epoch)`, with the standard library. Event and fields are taken from
the template and its arguments here, so a value that has spaces or quotes in it stays one value, a number a number, and true or false that.
"""

import json
import logging
import re
import sys
from collections.abc import MutableMapping
from enum import StrEnum
from typing import Any

import structlog

_FIELD = re.compile(r" (\w+)=")
_EVENT = re.compile(r"[a-z_]+(\.[a-z_]+)+[^ ]*( |$)")
_LITERAL = re.compile(r"true|false|[1-9][0-9]*")
_SPEC = re.compile(r"%[-#0 +]*[0-9]*(?:\.[0-9]+)?[a-zA-Z]")


class LogFormat(StrEnum):
    """What a line of the log looks like."""

    CONSOLE = "console"
    JSON = "json"


def set_up_logging(style: LogFormat) -> None:
    """Send everything to stderr, from INFO on; of uvicorn and other libraries from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(style, colors=sys.stderr.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("jobwire", "jobwire_broker", "jobwire_gateway", "jobwire_worker"):
        logging.getLogger(name).setLevel(logging.INFO)


def formatter(style: LogFormat, *, colors: bool = False) -> logging.Formatter:
    """The formatter for one style."""
    common: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _fields,
    ]
    last: list[structlog.typing.Processor]
    if style is LogFormat.JSON:
        last = [structlog.processors.format_exc_info, _in_order, structlog.processors.JSONRenderer(default=str, separators=(",", ":"))]
    else:
        # Plain tracebacks: the pretty ones show local variables, and with them what must not be shown.
        last = [structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0, sort_keys=False, exception_formatter=structlog.dev.plain_traceback)]
    last = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=common, processors=last, keep_exc_info=True, pass_foreign_args=True, use_get_message=False)


def fields_of(template: str, arguments: tuple[object, ...]) -> tuple[str, dict[str, object]]:
    """The event and the fields of a line: `("job.failed", {"job": …, "attempt": 3})`. A line of another form is an event without fields."""
    if not _EVENT.match(template):
        return template % arguments if arguments else template, {}
    head, *parts = _FIELD.split(template)
    taken = len(_SPEC.findall(head))
    event, fields = head % arguments[:taken] if taken else head, {}
    for name, part in zip(parts[::2], parts[1::2], strict=True):
        used = arguments[taken : taken + len(_SPEC.findall(part))]
        taken += len(used)
        fields[name] = _value(part, used)
    return event, fields


def _value(part: str, arguments: tuple[object, ...]) -> object:
    shown = part % arguments
    if not arguments:
        return json.loads(shown) if _LITERAL.fullmatch(shown) else shown
    if not _SPEC.fullmatch(part):
        return shown
    match arguments[0]:
        case bool(value):
            return value
        case int(value) if not part.endswith("s"):
            return value
        case float():
            return float(shown)
        case str(value) if part.endswith("r"):
            # A literal in the template keeps control characters out of a line for people. Here it needs no quotes, as a field has an end of its own.
            return value if value.isprintable() else shown[1:-1]
    return shown


def _fields(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    template, arguments = event["event"], event.pop("positional_args", ())
    event["event"], fields = fields_of(template, arguments) if isinstance(arguments, tuple) else (template % arguments, {})
    event.update({name if name not in event else f"{name}_": value for name, value in fields.items()})
    return event


def _in_order(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    first = {name: event.pop(name) for name in ("timestamp", "level", "event")}
    return {**first, **event}
