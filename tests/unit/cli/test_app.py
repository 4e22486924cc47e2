"""The commands are read module by module."""

import subprocess
import sys

import pytest
import typer
from jobwire_cli.app import MODULES, app_for


def names(app: typer.Typer) -> set[str | None]:
    of_commands = {command.name or getattr(command.callback, "__name__", None) for command in app.registered_commands}
    return of_commands | {group.name for group in app.registered_groups}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_the_commands_that_it_is_read_for(module: str) -> None:
    for command in MODULES[module]:
        assert names(app_for(command)) == set(MODULES[module])


@pytest.mark.parametrize("command", [None, "nonsense"])
def test_help_and_a_wrong_word_read_all(command: str | None) -> None:
    assert names(app_for(command)) == {command for commands in MODULES.values() for command in commands}


def test_a_server_is_started_without_what_clients_need() -> None:
    """A broker's image may be without rich's tables and the client; and each import is time in which nobody is served."""
    program = "import sys; from jobwire_cli.app import app_for; app_for('broker'); print('jobwire_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
