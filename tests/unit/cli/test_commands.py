"""The command line without a broker: its help, its messages, its exit codes. Each case is a process of its own."""

import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import typer
from jobwire_broker import names
from jobwire_cli import asking, exits, groups
from jobwire_cli.app import app_for
from jobwire_cli.main import main
from jobwire_client import errors

REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


class Run(Protocol):
    """Runs `jobwire` in this process."""

    def __call__(self, *arguments: str, **variables: str) -> Done: ...


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    for name in os.environ:
        if name.startswith(("JOBWIRE_", "REDIS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: str, **variables: str) -> Done:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["jobwire", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    return call


def run_apart(program: str, *arguments: str) -> Done:
    """Run a program of its own to its end."""
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=30, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def nobody() -> str:
    """An address where connections are refused."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_help_names_every_command_and_every_exit_code(run: Run) -> None:
    shown = run("--help").stdout
    for command in ("up", "broker", "gateway", "worker", "enqueue", "jobs", "queues", "workers", "version"):
        assert re.search(rf"^\W*{command} ", shown, re.MULTILINE), command
    for code, meaning in exits.MEANINGS.items():
        assert f"{code.value}: {meaning}" in " ".join(shown.split())


def test_the_page_on_the_command_line_has_the_same_exit_codes() -> None:
    page = (REPOSITORY / "docs/cli.md").read_text()
    documented = {int(code): meaning for code, meaning in re.findall(r"^\| (\d+) \| (.+?) \|$", page, re.MULTILINE)}
    assert documented == {code.value: meaning for code, meaning in exits.MEANINGS.items()}


def test_a_refusal_names_what_is_used_up() -> None:
    error = errors.QueueFull("the queue is at its maximum depth", quota=[errors.UsedUp("queues/mail", "the queue is at its maximum depth")])
    assert asking.sentence_of(error) == "the queue is at its maximum depth (queues/mail)"


def test_every_error_of_the_client_has_an_exit_code_other_than_success() -> None:
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.JobwireError):
            assert asking.code_of(kind("no")) is not exits.Exit.OK, name
    assert asking.code_of(errors.JobNotFound("no")) is exits.Exit.NOT_FOUND
    assert asking.code_of(errors.PayloadTooLarge("no")) is exits.Exit.USAGE


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("jobs", "get", "abc"), "say its queue with --queue, or give queues/QUEUE/jobs/abc"),
        (("jobs", "get", "queues/q/jobs/a", "--queue", "q"), "leave --queue out"),
        (("jobs", "watch"), "name the jobs to watch"),
        (("jobs", "watch", "queues/q/jobs/a", "--url", "http://x"), "name the jobs to watch"),
        (("jobs", "watch", "--url", "ftp://x/"), "no http or https URL"),
        (("jobs", "watch", "queues/q/jobs/a", "--timeout", "soon"), "is not a duration"),
        (("jobs", "list", "q", "--state", "sleeping"), "delayed, waiting, blocked"),
        (("enqueue", "q", "h", "{"), "no JSON"),
        (("enqueue", "q", "h", "-", "--id", "a"), "--id names one job"),
        (("enqueue", "q", "h", "--delay", "later"), "--delay: 'later' is not a duration"),
        (("enqueue", "q", "h", "--timeout", "later"), "--timeout: 'later' is not a duration"),
        (("enqueue", "q", "h", "--expires-at", "later"), "--expires-at: 'later' is not a date"),
        (("enqueue", "q", "h", "--delay-until", "2h"), "--delay-until: '2h' is not a date"),
        (("enqueue", "q", "h", "--backoff", "linear:2s"), "--backoff: 'linear:2s' is no backoff"),
        (("enqueue", "q", "h", "--debounce", "cart-7:5s:1m"), "--max-wait 1m"),
        (("enqueue", "q", "h", "--throttle", "report"), "--throttle: 'report' is no throttle"),
        (("enqueue", "q", "h", "--ttl", "soon"), "--ttl: 'soon' is not a duration"),
        (("jobs", "cancel", "queues/q/jobs/a", "--grace", "soon"), "--grace: 'soon' is not a duration"),
        (("jobs", "list", "q", "--since", "soon"), "--since: 'soon' is neither a duration"),
        (("jobs", "list", "q", "--fingerprint", ""), "--fingerprint must not be empty"),
        (("jobs", "bulk", "cancel", "q", "--yes", "--name", ""), "--name must not be empty"),
        (("jobs", "bulk", "cancel", "q", "--yes", "--group", ""), "--group must not be empty"),
        (("enqueue", "q", "h", "--group", ""), "--group must not be empty; leave it out for a job of no group"),
        (("enqueue", "q", "h", "--id", ""), "--id must not be empty; leave it out to have one made"),
        (("enqueue", "q", "h", "--idempotency-key", ""), "--idempotency-key must not be empty; leave it out"),
        (("enqueue", "q", "h", "--unique-key", ""), "--unique-key must not be empty; leave it out"),
        (("jobs", "failures", "q", "--name", ""), "--name must not be empty"),
        (("queues", "clean", "q", "--grace", "soon"), "--grace: 'soon' is not a duration"),
        (("queues", "groups", "set", "q", "g"), "say what to set: --weight, --express"),
        (("queues", "groups", "set", "q", "g", "--weight", "2", "--burst", "5"), "--burst is of a rate"),
        (("queues", "groups", "set", "q", "g", "--no-own-limit", "--concurrency", "5"), "--no-own-limit can't stand beside"),
        (("queues", "groups", "set", "q", "g", "--rate", "fast"), "--rate: 'fast' is not a rate"),
        (("token", "queues/q", "--ttl", "soon"), "--ttl: 'soon' is not a duration"),
        (("key", "me", "read:*", "--expires", "soon"), "--expires: 'soon' is not a duration"),
        (
            ("key", "me", "read:*", "--file", "/nowhere/keys"),
            "/nowhere/keys can't be written: No such file or directory; the key was not made, give another --file",
        ),
        (("enqueue", "q", "h", "--priority", "--5"), "'--5' is no priority; use a number or one of critical"),
        (("enqueue", "q", "h", "--priority", "²"), "'²' is no priority; use a number or one of critical"),
        (("jobs", "update", "queues/q/jobs/a", "--priority", "²"), "'²' is no priority; use a number or one of critical"),
        (("key", "me", "read:*", "--expires", "9999999d"), "--expires: '9999999d' is too long"),
        (("gateway", "--drain", "soon"), "--drain: 'soon' is not a duration"),
        (("worker", "m:w", "--drain-grace", "soon"), "--drain-grace: 'soon' is not a duration"),
        (("enqueue", "q", "h", "--target", "http://x"), "has a scheme"),
        (("broker", "--grpc", "nowhere"), "HOST:PORT"),
        (("broker", "--grpc", "0.0.0.0:0"), "--insecure"),
        (("broker", "--session-time", "0.1s"), "session_time"),
        (("gateway", "--http", "nowhere"), "HOST:PORT"),
        (("worker", "no_such_module:worker"), "no_such_module"),
        (("enqueue", "q", "h", "{bad"), "the payload is no JSON: Expecting property name enclosed in double quotes at character 2"),
        (("enqueue", "q", "h", "[" * 100_000), "the payload is nested too deep"),
        (("queues", "policy", "set", "q", "limit=5", "limit.concurrency=1"), "limit.concurrency can't be set beside limit=5"),
        (("queues", "policy", "set", "q", "limit.concurrency.x=1"), "limit.concurrency is one value; it can't be {'x': 1}"),
        (("queues", "stats", "\udcff"), "the first a letter or digit; it is '\\udcff'"),
        (("queues", "stats", "q" * 101), f"it is '{'q' * 37}...'"),
        (("token", "\udcff"), "'\\udcff' can't be sent: it is no UTF-8"),
        (("up", "--data-dir", __file__), "test_commands.py can't be used to keep data in: File exists: give another --data-dir"),
    ],
)
def test_what_makes_no_sense_ends_with_code_2_and_one_line_that_helps(run: Run, arguments: tuple[str, ...], hint: str) -> None:
    done = run(*arguments)
    assert done.returncode == exits.Exit.USAGE, done.stderr
    assert hint in done.stderr
    assert done.stderr.startswith("jobwire: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("name", ["", "mail/urgent"])
@pytest.mark.parametrize(
    "command",
    [
        *("enqueue Q h", "jobs list Q", "jobs failures Q", "jobs bulk cancel Q", "jobs bulk-runs Q", "jobs bulk-run 00 -q Q", "jobs get a -q Q"),
        *("queues stats Q", "queues pause Q", "queues clean Q", "queues purge Q", "queues policy get Q", "queues policy set Q attempts=3"),
        *("queues groups list Q", "queues groups pause Q g", "queues groups set Q g --weight 2"),
    ],
)
def test_a_name_that_no_queue_can_have_is_told_as_that_of_the_queue(run: Run, command: str, name: str) -> None:
    done = run(*(name if word == "Q" else word for word in command.split()))
    assert done == Done(exits.Exit.USAGE, "", f"jobwire: queue must be 1 to 100 of [A-Za-z0-9._~-], the first a letter or digit; it is {name!r}\n")


@pytest.mark.parametrize("name", ["", "acme/mail"])
@pytest.mark.parametrize("command", ["pause q G", "resume q G", "set q G --weight 2"])
def test_a_name_that_no_group_can_have_is_told_as_that_of_the_group(run: Run, command: str, name: str) -> None:
    done = run("queues", "groups", *(name if word == "G" else word for word in command.split()))
    assert done == Done(exits.Exit.USAGE, "", f"jobwire: group must be 1 to 128 of [A-Za-z0-9._~:@+=-], the first a letter or digit; it is {name!r}\n")


def test_the_command_line_and_the_broker_agree_on_names() -> None:
    assert asking.QUEUE_PATTERN.pattern == names.QUEUE_PATTERN.pattern
    assert groups.GROUP_PATTERN.pattern == names.ID_PATTERN.pattern


@pytest.mark.parametrize("arguments", [("jobs", "get", "queues/q/jobs/a"), ("enqueue", "q", "h"), ("queues", "list"), ("workers",), ("version", "--server")])
def test_without_a_broker_a_command_ends_with_code_4_and_says_where_it_looked(run: Run, arguments: tuple[str, ...]) -> None:
    address = nobody()
    done = run(*arguments, JOBWIRE_TARGET=address)
    assert done.returncode == exits.Exit.UNAVAILABLE
    # The rest is gRPC's: why it could not connect, or on a busy machine that it could not in time.
    assert done.stderr.startswith(f"jobwire: no broker answers at {address}: ")
    assert done.stderr.count("\n") == 1


def test_the_flag_wins_over_the_variable(run: Run) -> None:
    flag = nobody()
    done = run("queues", "list", "--target", flag, JOBWIRE_TARGET="127.0.0.1:1")
    assert flag in done.stderr


def test_an_event_stream_that_cannot_be_reached_ends_with_code_4(run: Run) -> None:
    done = run("jobs", "watch", "--url", f"http://{nobody()}/v1/x")
    assert (done.returncode, done.stdout) == (exits.Exit.UNAVAILABLE, "")


@pytest.mark.parametrize("arguments", ["version", "version --json", "jobs --help", "key me read:*"])
def test_a_full_disk_is_one_line_and_code_1(arguments: str) -> None:
    with open("/dev/full", "wb") as full:
        done = run_into(full.fileno(), *arguments.split())
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "jobwire: standard output can't be written: No space left on device")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", ["version", "version --json", "jobs --help"])
def test_a_reader_that_has_gone_away_ends_a_command_without_a_word(arguments: str) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run_into(write, *arguments.split())
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_standard_output_that_is_closed_ends_nothing() -> None:
    program = "import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, '-m', 'jobwire_cli', 'version'])"
    assert run_apart(program) == Done(0, "", "")


def run_into(stdout: int, *arguments: str) -> Done:
    """Run `jobwire` with this as its standard output."""
    command = [sys.executable, "-m", "jobwire_cli", *arguments]
    done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    return Done(done.returncode, "", done.stderr)


def test_the_version_needs_no_broker(run: Run) -> None:
    assert run("version").stdout.startswith("jobwire 0.")
    assert run("version", "--json").stdout.startswith('{"version":"0.')


@pytest.mark.parametrize(
    ("command", "module", "extra"), [("broker", "redis", "broker"), ("gateway", "starlette", "gateway"), ("queues", "typer", "cli"), ("queues", "rich", "cli")]
)
def test_a_missing_extra_is_named(command: str, module: str, extra: str) -> None:
    program = f"import sys; sys.modules[{module!r}] = None; from jobwire_cli.main import main; main()"
    done = run_apart(program, command)
    assert done.returncode == 1
    assert f"install jobwire[{extra}]" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_line_of_standard_input_that_is_no_json_is_told_by_its_number(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("1\n\n{bad\n"))
    done = run("enqueue", "q", "h", "-")
    assert (done.returncode, done.stdout) == (exits.Exit.USAGE, "")
    assert done.stderr == "jobwire: line 3 is no JSON: Expecting property name enclosed in double quotes at character 2\n"


def test_a_health_port_that_is_taken_is_one_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "idle.py").write_text("from jobwire_worker import Worker\nworker = Worker(queues=['q'])\nworker.handler('n')(lambda: None)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("worker", "idle:worker", "--health", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == exits.Exit.FAILED
    assert done.stderr.startswith("jobwire: health checks can't be answered at 127.0.0.1:")
    assert done.stderr.count("\n") == 1


#: What prints nothing but the log of what it runs.
SERVERS = {"broker", "gateway", "webhooks", "worker"}


def commands_of(group: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """All commands by their paths."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, *path, name)
        else:
            yield " ".join((*path, name)), command


def test_every_command_that_prints_takes_json() -> None:
    commands = dict(commands_of(typer.main.get_command(app_for(None))))
    assert {"enqueue", "jobs bulk", "key", "token", "queues policy set", "version"} <= commands.keys()
    without = {path for path, command in commands.items() if not any("--json" in option.opts for option in command.params)}
    assert without == SERVERS


def test_a_key_is_made_as_json(run: Run, tmp_path: Path) -> None:
    made = json.loads(run("key", "me", "read:*", "--json").stdout)
    assert made["key"] not in made["line"]
    assert made["line"].split()[0] == "me"
    done = run("key", "me", "read:*", "--json", "--file", str(tmp_path / "keys"))
    assert (tmp_path / "keys").read_text() == json.loads(done.stdout)["line"] + "\n"
    assert done.stderr == ""


def test_a_file_of_keys_for_which_the_disk_has_no_room_keeps_what_it_had(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("me sha256:00 read:*")
    program = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({keys.stat().st_size},) * 2); from jobwire_cli.main import main; main()"
    done = run_apart(program, "key", "you", "read:*", "--file", str(keys))
    assert (done.returncode, done.stdout) == (exits.Exit.USAGE, "")
    assert done.stderr == f"jobwire: {keys} can't be written: File too large; the key was not made, give another --file\n"
    assert keys.read_text() == "me sha256:00 read:*"


def test_a_key_begins_a_line_of_its_own(run: Run, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# ours")
    for name in ("me", "you"):
        run("key", name, "read:*", "--file", str(keys))
    assert [line.split()[0] for line in keys.read_text().splitlines()] == ["#", "me", "you"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("enqueue", "q", "h", "--attempts", "9999999999"), "'--attempts': 9999999999 is not in the range 1<=x<=1000"),
        (("jobs", "logs", "queues/q/jobs/a", "--after", "9" * 20), f"'--after': {'9' * 20} is not in the range 0<=x<={2**63 - 1}"),
    ],
)
def test_a_number_that_is_too_large_is_told_with_its_bounds(run: Run, arguments: tuple[str, ...], hint: str) -> None:
    done = run(*arguments)
    assert done.returncode == exits.Exit.USAGE
    assert hint in done.stderr


def test_looking_at_the_help_of_a_server_does_not_import_it() -> None:
    program = """
import sys
from jobwire_cli.main import main
try:
    main()
finally:
    print([name for name in sys.modules if name.split(".")[0] in ("jobwire_broker", "redis", "starlette")])
"""
    assert run_apart(program, "broker", "--help").stdout.rstrip().endswith("[]")


@pytest.mark.parametrize("arguments", [["webhooks", "--file"], ["up", "--webhooks"]])
def test_a_file_of_endpoints_with_mistakes_starts_nothing_and_tells_their_lines(tmp_path: Path, arguments: list[str]) -> None:
    file = tmp_path / "webhooks.yaml"
    file.write_text("endpoints:\n  shop:\n    url: http://shop.example/\n    secrets: [{env: NOT_SET}]\n    queues: [orders]\n")
    with pytest.raises(exits.CommandFailed) as raised:
        app_for(arguments[0])([*arguments, str(file)], standalone_mode=False)
    assert raised.value.code == exits.Exit.USAGE
    assert [line.partition(": ")[0] for line in str(raised.value).splitlines()] == [f"{file}:3", f"{file}:4"]
