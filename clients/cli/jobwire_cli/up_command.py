"""`jobwire up`: everything on this machine, with one command."""

import asyncio
import contextlib
import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from jobwire_cli import servers, settings
from jobwire_cli.config_file import Config
from jobwire_cli.exits import CommandFailed, Exit
from jobwire_cli.up.lock import DirectoryInUse
from jobwire_cli.up.process import PartFailed
from jobwire_cli.up.store import DirectoryUnusable, StoreBinaryMissing
from jobwire_cli.up.supervisor import Ready, Supervisor, UpConfig

_COLORS = {"store": "\x1b[35m", "broker": "\x1b[36m", "gateway": "\x1b[32m", "webhooks": "\x1b[34m", "up": "\x1b[33m"}
_STORE_NEWS = re.compile(r"\bstore\.(available|unavailable|unusable)\b")
_NAME_WIDTH = max(map(len, _COLORS))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(up)


def up(
    data_dir: Annotated[Path, typer.Option(envvar="JOBWIRE_DATA_DIR", help="Where the embedded store keeps its file.")] = Path(".jobwire"),
    store: Annotated[
        str | None, typer.Option(envvar="JOBWIRE_STORE", metavar="URL", help="Use this store and start none: redis://, rediss:// or unix://.", show_envvar=True)
    ] = None,
    grpc: Annotated[str, typer.Option(envvar="JOBWIRE_GRPC", metavar="HOST:PORT", help="Where the broker listens; port 0 picks one.")] = "127.0.0.1:7410",
    http: Annotated[str, typer.Option(envvar="JOBWIRE_HTTP", metavar="HOST:PORT", help="Where the gateway listens; port 0 picks one.")] = "127.0.0.1:8080",
    session_time: servers.SessionTime = "10s",
    queues: servers.Queues = None,
    webhooks: servers.WebhooksFile = None,
    insecure: servers.Insecure = False,
    allow_eviction: servers.AllowEviction = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say where everything is as one line of JSON.")] = False,
    config_file: Config = None,
) -> None:
    """Run a store, a broker and a gateway until Ctrl-C; with `--webhooks` also what delivers them.

    The store is a real Valkey with its append-only file in the data directory. Ctrl-C or SIGTERM drains and stops everything in order; a second one stops it at
    once.
    """
    # They have sections of their own in it, for what `up` has no flag for.
    shared = [*(["--insecure"] if insecure else []), *(["--config", str(config_file.absolute())] if config_file else [])]
    try:
        # The parts read them again: here they are read so that nothing is started for a file with a mistake.
        servers.load_queues(queues)
        deliveries = servers.load_webhooks(webhooks).queue if webhooks else ""
    except ValueError as error:
        raise CommandFailed(str(error), Exit.USAGE) from error
    config = UpConfig(
        data_dir=data_dir,
        store=store,
        grpc=grpc,
        http=http,
        broker_arguments=(
            "--session-time",
            session_time,
            *shared,
            *(["--allow-eviction"] if allow_eviction else []),
            *(["--queues", str(queues)] if queues else []),
        ),
        gateway_arguments=tuple(shared),
        webhooks_arguments=("--file", str(webhooks), *shared),
        webhooks_queue=deliveries,
    )
    try:
        asyncio.run(_run(config, as_json))
    except DirectoryInUse as error:
        raise CommandFailed(str(error), Exit.CONFLICT) from error
    except DirectoryUnusable as error:
        raise CommandFailed(str(error), Exit.USAGE) from error
    except PartFailed as error:
        # A part that refuses a flag at its start has been handed it by us, and we by the user.
        raise CommandFailed(str(error), Exit.USAGE if error.returncode == Exit.USAGE else Exit.FAILED) from error
    except StoreBinaryMissing as error:
        raise CommandFailed(str(error)) from error
    except KeyboardInterrupt:  # it came before the supervisor listened for it
        raise CommandFailed("interrupted", Exit.INTERRUPTED) from None


async def _run(config: UpConfig, as_json: bool) -> None:
    store_is_away = False

    def hear(name: str, line: str) -> None:
        nonlocal store_is_away
        if name == "broker" and (said := _STORE_NEWS.search(line)):
            store_is_away = said.group() != "store.available"
        _write_log(name, line)

    def announce(ready: Ready) -> None:
        _write_log("up", f"up.ready grpc={ready.grpc} http={ready.http} store={settings.without_password(ready.store)}")
        sys.stdout.write(_as_json(ready) if as_json else _as_text(ready, config, store_is_away))
        sys.stdout.flush()

    await Supervisor(config, sink=hear, on_ready=announce).run()


def _as_json(ready: Ready) -> str:
    return json.dumps({"grpc": ready.grpc, "http": ready.http, "store": settings.without_password(ready.store)}) + "\n"


def _as_text(ready: Ready, config: UpConfig, store_is_away: bool) -> str:
    store = settings.without_password(ready.store) if config.store else f"embedded, in {config.data_dir}"
    if store_is_away:  # a broker waits for its store, and so do we
        store += "\n           It can't be used yet, and until then every call is refused: what the broker logs says why."
    return f"\n  Jobwire is ready; Ctrl-C stops it.\n\n  gRPC     {ready.grpc}\n  page     http://{ready.http}/\n  store    {store}\n\n"


def _write_log(name: str, line: str) -> None:
    prefix = f"{name:<{_NAME_WIDTH}} |"
    if sys.stderr.isatty():
        prefix = f"{_COLORS.get(name, '')}{prefix}\x1b[0m"
    with contextlib.suppress(OSError, ValueError):  # whoever read our output is gone; the parts go on
        sys.stderr.write(f"{prefix} {line}\n")
