"""A worker from `module:worker`, as the command line names it."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from ._health import parse_health
from ._reserves import check_reserved
from ._targets import parse_targets
from ._worker import Worker, _concurrency, _grace
from .errors import SpecError, WorkerError


def run_from_spec(
    spec: str,
    *,
    target: str | Sequence[str] | None = None,
    concurrency: int | None = None,
    health: str | None = None,
    drain_grace: timedelta | float | None = None,
) -> int:
    """Import the worker that `spec` names and run it until a signal; what is given here replaces what the worker was made with.

    `spec` is `module:name`, where `name` is a `Worker` or a function without arguments that returns one; `module` alone means `module:worker`. Modules are
    also looked for in the current directory. A program that set up no logging gets the worker's lines on stderr. Returns the exit code.

    Raises SpecError when the spec leads to no worker, RegistrationError for bad values.
    """
    worker = load_worker(spec)
    changes: dict[str, Any] = {}
    if target is not None:
        changes["targets"] = parse_targets(target)
    if concurrency is not None:
        changes["concurrency"] = _concurrency(concurrency, {})
        check_reserved(worker.options.reserved, worker.options.queues, changes["concurrency"])
    if health is not None:
        changes["health"] = parse_health(health)
    if drain_grace is not None:
        changes["drain_grace"] = _grace(drain_grace)
    worker._options = replace(worker.options, **changes)
    if not logging.getLogger().hasHandlers():
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    return worker.run()


def load_worker(spec: str) -> Worker:
    """The worker that `spec` names. Raises SpecError, also for an error inside the module, with its traceback from there on; RegistrationError."""
    module_name, _, path = spec.partition(":")
    path = path or "worker"
    if not module_name or not all(part.isidentifier() for part in (*module_name.split("."), *path.split("."))):
        raise SpecError(f"{spec!r} is not 'module:worker', for example 'myapp.jobs:worker'")
    try:
        found = _look_up(_import(module_name), path, spec)
        if callable(found) and not isinstance(found, Worker):
            found = found()
    except WorkerError:
        raise
    except Exception as error:
        raise SpecError(f"{spec!r} leads to no worker, because of an error on the way:\n{_traceback(error)}") from error
    if not isinstance(found, Worker):
        raise SpecError(f"{spec!r} is a {type(found).__name__}; it must be a Worker, or a function that returns one")
    return found


def _import(module_name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise  # the module is there, and imports something that is not
        raise SpecError(f"there is no module {error.name!r} in {here} or where Python is installed") from None


def _traceback(error: Exception) -> str:
    """From the first line that is neither ours nor importlib's: what its author can mend."""
    where = error.__traceback__
    while where is not None and (where.tb_frame.f_code.co_filename == __file__ or where.tb_frame.f_globals.get("__name__", "").startswith("importlib")):
        where = where.tb_next
    return "".join(traceback.format_exception(type(error), error, where)).rstrip()


def _look_up(module: Any, path: str, spec: str) -> Any:
    found = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            workers = sorted(name for name, value in vars(module).items() if isinstance(value, Worker))
            hint = f"; it has {', '.join(f'{module.__name__}:{name}' for name in workers)}" if workers else ""
            raise SpecError(f"{spec!r}: {module.__name__} has no {path!r}{hint}") from None
    return found
