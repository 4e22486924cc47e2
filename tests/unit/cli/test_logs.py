"""A line of the log is an event with fields, for people and for programs."""

import json
import logging
import sys

import pytest
from jobwire_cli.logs import LogFormat, fields_of, formatter


def record(template: str, *arguments: object, exc_info: bool = False) -> logging.LogRecord:
    error = sys.exc_info() if exc_info else None
    return logging.LogRecord("jobwire_broker.test", logging.WARNING, __file__, 1, template, arguments, error)


@pytest.mark.parametrize(
    ("template", "arguments", "event", "fields"),
    [
        ("broker.ready grpc=%s id=%s", ("127.0.0.1:1", "a b"), "broker.ready", {"grpc": "127.0.0.1:1", "id": "a b"}),
        ("worker.attached session=%s epoch=%d", ("f0", 3), "worker.attached", {"session": "f0", "epoch": 3}),
        (
            "store.unavailable address=%s error=%s: %s",
            ("unix:///x", "E", "gone"),
            "store.unavailable",
            {"address": "unix:///x", "error": "E: gone"},
        ),
        ("broker.stopping grace_s=%.1f", (5.04,), "broker.stopping", {"grace_s": 5.0}),
        ("worker.draining running=%d grace=%.0fs", (2, 30.0), "worker.draining", {"running": 2, "grace": "30s"}),
        ("store.available disk=%s", (True,), "store.available", {"disk": True}),
        ("job.failed attempt=%d permanent=false error=%s", (3, "E"), "job.failed", {"attempt": 3, "permanent": False, "error": "E"}),
        ("webhooks.endpoint_gone endpoint=%s status=410 undo=%s", ("crm", "a b"), "webhooks.endpoint_gone", {"endpoint": "crm", "status": 410, "undo": "a b"}),
        ("gateway.refused path=%r name=%r", ("/v1/queues", 'it\'s "me"'), "gateway.refused", {"path": "/v1/queues", "name": 'it\'s "me"'}),
        ("gateway.refused path=%r", ("/a\n\x1b\u2028b",), "gateway.refused", {"path": "/a\\n\\x1b\\u2028b"}),
        ("listener.bad_message bytes=%r", (b"a",), "listener.bad_message", {"bytes": "b'a'"}),
        ("broker.stopped", (), "broker.stopped", {}),
        ("listener.lost error=%s", ("said x=1 y=2",), "listener.lost", {"error": "said x=1 y=2"}),
        ("Started server process [%d]", (7,), "Started server process [7]", {}),
        ("100% of it", (), "100% of it", {}),
    ],
)
def test_event_and_fields_come_from_the_template(template: str, arguments: tuple[object, ...], event: str, fields: dict[str, object]) -> None:
    assert fields_of(template, arguments) == (event, fields)


def test_a_line_of_json_begins_with_time_level_and_event() -> None:
    line = json.loads(formatter(LogFormat.JSON).format(record("job.failed job=%s attempt=%d event=%s", 'queues/"q"\n', 3, "x")))
    assert list(line) == ["timestamp", "level", "event", "job", "attempt", "event_"]
    assert (line["level"], line["event"], line["job"], line["attempt"], line["event_"]) == ("warning", "job.failed", 'queues/"q"\n', 3, "x")


def test_a_line_for_people_shows_fields_behind_the_event_on_one_line() -> None:
    line = formatter(LogFormat.CONSOLE).format(record("gateway.ready http=%s", "127.0.0.1:8080"))
    assert "gateway.ready http=127.0.0.1:8080" in line
    assert "\n" not in line


@pytest.mark.parametrize("style", LogFormat)
def test_a_traceback_is_shown_without_local_variables(style: LogFormat) -> None:
    password = "s3cret"
    try:
        raise ValueError("broken" + password[:0])
    except ValueError:
        text = formatter(style).format(record("hook.failed job=%s", "a", exc_info=True))
    assert "ValueError: broken" in text
    assert "s3cret" not in text.replace('password = "s3cret"', "")
