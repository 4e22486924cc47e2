"""`--config FILE`: what wins over what, and what is refused with its line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobwire_broker.server
import jobwire_gateway.server
import pytest
from jobwire_cli import up_command
from jobwire_cli.app import app_for
from jobwire_cli.config_file import read
from jobwire_cli.exits import CommandFailed, Exit

FLAGS = {"grpc": "grpc", "store": "store", "session-time": "session_time"}

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def made(text: str) -> Path:
        path = tmp_path / "jobwire.yaml"
        path.write_text(text)
        return path

    return made


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The configuration that a command would serve with."""
    for name in ("JOBWIRE_STORE", "REDIS_URL", "REDIS_HOST", "JOBWIRE_CONFIG", "JOBWIRE_HTTP", "JOBWIRE_MAX_TOPICS"):
        monkeypatch.delenv(name, raising=False)
    made: list[Any] = []

    def serve(config: Any) -> int:
        made.append(config)
        return 0

    for module in (jobwire_broker.server, jobwire_gateway.server):
        monkeypatch.setattr(module, "run", serve)

    def configured(command: str, *arguments: str) -> Any:
        app_for(command)([command, *arguments], standalone_mode=False)
        return made.pop()

    return configured


def test_a_flag_wins_over_a_variable_that_over_the_file_and_that_over_the_default(
    run: Callable[..., Any], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(write("gateway:\n  http: 127.0.0.1:1\n  max-topics: 7\n  insecure: true\n  heartbeat: 9s\n"))
    found = run("gateway", "--config", path)
    assert (found.http, found.max_topics, found.insecure, found.heartbeat.total_seconds(), found.max_streams) == ("127.0.0.1:1", 7, True, 9, 10_000)
    monkeypatch.setenv("JOBWIRE_CONFIG", path)
    monkeypatch.setenv("JOBWIRE_HTTP", "127.0.0.1:2")
    monkeypatch.setenv("JOBWIRE_MAX_TOPICS", "8")
    found = run("gateway", "--http", "127.0.0.1:3")
    assert (found.http, found.max_topics, found.insecure) == ("127.0.0.1:3", 8, True)


@pytest.mark.parametrize(
    ("variable", "value", "store"),
    [("", "", "redis://file:1"), ("JOBWIRE_STORE", "redis://a:2", "redis://a:2"), ("REDIS_HOST", "b", "redis://b:6379")],
)
def test_each_variable_of_the_store_wins_over_the_file(
    run: Callable[..., Any], write: Write, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, store: str
) -> None:
    if variable:
        monkeypatch.setenv(variable, value)
    path = str(write("broker: {store: 'redis://file:1'}\n"))
    assert run("broker", "--config", path).store == store
    assert run("broker", "--config", path, "--store", "redis://flag:3").store == "redis://flag:3"


def test_up_hands_the_file_to_its_parts(monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    made: list[Any] = []

    async def serve(config: Any, as_json: bool) -> None:
        made.append(config)

    monkeypatch.setattr(up_command, "_run", serve)
    path = write("up:\n  data-dir: here\n  session-time: 7s\ngateway:\n  max-topics: 5\n")
    app_for("up")(["up", "--config", str(path)], standalone_mode=False)
    (config,) = made
    assert (config.data_dir, config.broker_arguments[:2]) == (Path("here"), ("--session-time", "7s"))
    assert config.gateway_arguments == ("--config", str(path))


def test_a_section_that_is_empty_or_of_another_command_says_nothing(write: Write) -> None:
    assert read(write("broker:\ngateway:\n  http: x\n"), "broker", FLAGS, {}) == {}
    assert read(write(""), "broker", FLAGS, {}) == {}


def test_values_are_taken_as_they_are_written(write: Write) -> None:
    assert read(write("broker:\n  grpc: 1:20\n  session-time: 010\n"), "broker", FLAGS, {}) == {"grpc": "1:20", "session_time": "010"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("broker:\n  grpc: x\n  speed: 9\n", "line 3: broker has no setting 'speed'; it has grpc, session-time, store"),
        ("broker:\n  session_time: 9s\n", "line 2: broker has no setting 'session_time'"),
        ("brokers:\n  grpc: x\n", "line 2: there is no command 'brokers'"),
        ("broker:\n  grpc: [x]\n", "line 2: grpc must have one value"),
        ("broker:\n  grpc:\n", "line 2: grpc must have one value"),
        ("broker: 7\n", "line 1: here must be names with their values"),
        ("- broker\n", "line 1: here must be names with their values"),
        ("broker:\n  grpc: x\n  grpc: y\n", "line 3: 'grpc' stands here twice"),
        ("broker:\n  store: redis://:hidden@h:1\n", "line 2: a store's password belongs in the variable JOBWIRE_STORE"),
        ("broker: {", "is no YAML"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_without_secrets(write: Write, text: str, sentence: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        read(write(text), "broker", FLAGS, {})
    assert caught.value.code == Exit.USAGE
    assert sentence in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="can't be read"):
        read(tmp_path / "none.yaml", "broker", FLAGS, {})
