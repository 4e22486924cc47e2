"""`--config FILE`: settings in YAML for the commands that serve. Flags and variables win over it.

    broker:
      grpc: 0.0.0.0:7410
      keys: /etc/jobwire/keys
    gateway:
      max-streams: 50000

A section has the name of its command, and a key that of a flag, without its dashes. What has no flag has no key: secrets stand in variables, or in files that
are named here. Values are taken as they are written.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from jobwire_cli.exits import CommandFailed, Exit

if TYPE_CHECKING:
    import yaml

COMMANDS = ("up", "broker", "gateway", "webhooks", "worker")
MAX_FILE_BYTES = 1 << 20
#: Flags whose variables are not read by the flag itself: where one of them is set, the file is not asked.
_VARIABLES = {
    ("broker", "store"): ("JOBWIRE_STORE", "REDIS_URL", "REDIS_HOST"),
    ("worker", "target"): ("JOBWIRE_TARGET",),
}


def read(path: Path, command: str, flags: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the file says for a command, by the names that `flags` gives to its flags. Raises CommandFailed with the line of a mistake."""
    section = _sections(path).get(command)
    found: dict[str, str] = {}
    for key, value in [] if section is None else _pairs(path, section):
        if key not in flags:
            raise _mistake(path, value, f"{command} has no setting {key[:60]!r}; it has {', '.join(sorted(flags))}")
        text = _text(path, key, value)
        if key == "store" and _has_password(text):
            raise _mistake(path, value, "a store's password belongs in the variable JOBWIRE_STORE, and not in a file of settings")
        if not any(environment.get(name) for name in _VARIABLES.get((command, key), ())):
            found[flags[key]] = text
    return found


def _sections(path: Path) -> "dict[str, yaml.Node]":
    root = _parsed(path)
    sections = {} if root is None else dict(_pairs(path, root))
    for name, node in sections.items():
        if name not in COMMANDS:
            raise _mistake(path, node, f"there is no command {name[:60]!r} that takes settings; sections are {', '.join(COMMANDS)}")
    return {name: node for name, node in sections.items() if node.value}


def _parsed(path: Path) -> "yaml.Node | None":
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise CommandFailed("--config needs pyyaml: install jobwire[cli]") from error
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise CommandFailed(f"{path} has more than {MAX_FILE_BYTES} bytes", Exit.USAGE)
        return yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise CommandFailed(f"{path} is no YAML: {' '.join(str(error).split())}", Exit.USAGE) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{path} can't be read: {error}", Exit.USAGE) from error


def _pairs(path: Path, node: "yaml.Node") -> "Iterator[tuple[str, yaml.Node]]":
    from yaml import MappingNode

    if not isinstance(node, MappingNode):
        raise _mistake(path, node, "here must be names with their values")
    seen: set[str] = set()
    for key, value in node.value:
        name = str(key.value)
        if name in seen:
            raise _mistake(path, key, f"{name[:60]!r} stands here twice")
        seen.add(name)
        yield name, value


def _text(path: Path, key: str, node: "yaml.Node") -> str:
    from yaml import ScalarNode

    if not isinstance(node, ScalarNode) or not node.value:
        raise _mistake(path, node, f"{key} must have one value")
    return str(node.value)


def _has_password(url: str) -> bool:
    try:
        return bool(urlsplit(url).password)
    except ValueError:
        return "@" in url


def _mistake(path: Path, node: "yaml.Node", sentence: str) -> CommandFailed:
    return CommandFailed(f"{path}, line {node.start_mark.line + 1}: {sentence}", Exit.USAGE)


def _use(context: typer.Context, path: Path | None) -> Path | None:
    if path is not None:
        flags = {option[2:]: str(given.name) for given in context.command.params for option in given.opts if option.startswith("--")}
        del flags["config"]
        context.default_map = read(path, str(context.info_name), flags)
    return path


Config = Annotated[
    Path | None,
    typer.Option(
        "--config", envvar="JOBWIRE_CONFIG", metavar="FILE", is_eager=True, callback=_use, help="Settings in YAML, by command; flags and variables win over it."
    ),
]
