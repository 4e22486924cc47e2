"""Where settings come from, and how durations are written."""

from datetime import timedelta

import pytest
from jobwire_cli.durations import parse_duration, short
from jobwire_cli.settings import store_url, without_password


@pytest.mark.parametrize(
    ("flag", "environment", "expected"),
    [
        (None, {}, "redis://127.0.0.1:6379"),
        (None, {"REDIS_HOST": "db"}, "redis://db:6379"),
        (None, {"REDIS_HOST": "db", "REDIS_PORT": "7000"}, "redis://db:7000"),
        (None, {"REDIS_HOST": "db", "REDIS_PASSWORD": "a/b@c:d"}, "redis://:a%2Fb%40c%3Ad@db:6379"),
        (None, {"REDIS_HOST": "::1"}, "redis://[::1]:6379"),
        (None, {"REDIS_URL": "rediss://u", "REDIS_HOST": "db"}, "rediss://u"),
        (None, {"JOBWIRE_STORE": "redis://j", "REDIS_URL": "redis://u"}, "redis://j"),
        ("unix:///s", {"JOBWIRE_STORE": "redis://j"}, "unix:///s"),
        (None, {"JOBWIRE_STORE": "", "REDIS_URL": ""}, "redis://127.0.0.1:6379"),
    ],
)
def test_the_store_is_what_is_said_first(flag: str | None, environment: dict[str, str], expected: str) -> None:
    assert store_url(flag, environment) == expected


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:secret@host:1/2?password=secret", "redis://host:1/2"),
        ("rediss://:secret@[::1]:6379", "rediss://[::1]:6379"),
        ("redis://host:6379", "redis://host:6379"),
        ("unix://:secret@/run/store.sock?db=1", "unix:///run/store.sock"),
        ("unix:///run/store.sock", "unix:///run/store.sock"),
        ("redis://:pass@word@host", "redis://host"),
        ("redis://:se/cret@host", "redis://host"),
        ("redis://:se#cret@host", "redis://host"),
        ("redis://:se?cret@host", "redis://host"),
        ("secret", "***"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500ms", 0.5), ("10s", 10), ("1.5s", 1.5), ("5m", 300), ("2h", 7200), ("1d", 86400), ("3", 3), ("0", 0), (" 7 s ", 7)],
)
def test_a_duration_has_a_unit_or_is_in_seconds(text: str, expected: float) -> None:
    assert parse_duration(text) == timedelta(seconds=expected)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1w", "1e3", "1,5s", "inf", "nan", "9" * 400])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|too long"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0s"), (9.94, "9.9s"), (12.7, "12s"), (185, "3m 5s"), (7800, "2h 10m"), (4 * 86400 + 3 * 3600, "4d 3h"), (-1, "-"), (float("inf"), "-")],
)
def test_an_age_is_short(seconds: float, text: str) -> None:
    assert short(seconds) == text
