"""Which function runs which job: what may be registered, and how it is called.

A registration that cannot work is refused when it is made, with a sentence that says what would.
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from jobwire.v1 import job_pb2

from ._job import Job
from ._payloads import Decode, decoder
from .errors import RegistrationError

ANY_NAME = "*"
MAX_QUEUES = 100
_JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~:/@+=-]{0,127}")
_QUEUE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,99}")
_SHAPES = "a handler takes (job: Job), (payload: YourType), (job: Job, payload: YourType) or nothing"

Arguments = Callable[[Job[Any], job_pb2.Payload], tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Handler:
    """A registered function."""

    name: str
    function: Callable[..., Any]
    is_async: bool
    timeout_s: float | None
    arguments: Arguments
    """Makes the positional arguments of a call; raises PayloadError."""


class Registry:
    """The handlers of one worker."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def __len__(self) -> int:
        return len(self._handlers)

    def find(self, job_name: str) -> Handler | None:
        """The handler of that name, else the one of `*`, else None."""
        return self._handlers.get(job_name) or self._handlers.get(ANY_NAME)

    def add(self, name: str, function: Callable[..., Any], timeout: timedelta | float | None) -> None:
        """Raises RegistrationError."""
        _check_name(name, function)
        if name in self._handlers:
            other = self._handlers[name].function
            raise RegistrationError(f"there is a handler for {name!r} already: {_described(other)}; each name has one handler")
        is_async = _check_function(function)
        self._handlers[name] = Handler(
            name=name,
            function=function,
            is_async=is_async,
            timeout_s=_timeout_s(timeout, name),
            arguments=_arguments(function),
        )


def _check_name(name: object, function: object) -> None:
    if callable(name):
        raise RegistrationError('name the jobs that the handler takes: @worker.handler("thumbnail"), not @worker.handler')
    if not isinstance(name, str) or not (name == ANY_NAME or _JOB_NAME.fullmatch(name)):
        raise RegistrationError(
            f"{name!r} cannot be the name of a job: 1 to 128 letters, digits or ._~:/@+=- of which the first is a letter or digit, or '*' for all other names"
        )


def check_queue(name: object) -> str:
    """The name, if a queue can have it. Raises RegistrationError."""
    if not isinstance(name, str) or not _QUEUE_NAME.fullmatch(name):
        raise RegistrationError(f"{name!r} cannot be the name of a queue: 1 to 100 letters, digits or ._~- of which the first is a letter or digit")
    return name


def _described(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"


def _check_function(function: object) -> bool:
    """Whether it is a coroutine function."""
    if not callable(function):
        raise RegistrationError(f"a handler must be a function, got {function!r}")
    if isinstance(function, type):
        raise RegistrationError(f"a handler must be a function, and {function.__qualname__} is a class; register a method of an object of it")
    called = _unwrapped(function)
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise RegistrationError(f"{_described(function)} has a yield, and a handler must return; use job.progress(…) to tell how far it is")
    return inspect.iscoroutinefunction(called)


def _unwrapped(function: Any) -> Any:
    """The function that is really run: itself, or that of a partial or of an object with `__call__`."""
    if isinstance(function, functools.partial):
        # First: from Python 3.14 on a partial counts as a routine.
        return _unwrapped(function.func)
    return function if inspect.isroutine(function) else function.__call__


def _timeout_s(timeout: timedelta | float | None, name: str) -> float | None:
    if timeout is None:
        return None
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise RegistrationError(f"the timeout of {name!r} must be a timedelta or seconds above 0, got {timeout!r}")
    return float(seconds)


# --- signatures ---


def _arguments(function: Callable[..., Any]) -> Arguments:
    """How to call `function`, decided by its annotations alone."""
    parameters = list(_positional(function))
    hints = _hints(function)
    roles = [_is_job(function, parameter, hints, len(parameters)) for parameter in parameters]
    if len(parameters) > 2:
        raise RegistrationError(f"{_described(function)} takes {len(parameters)} arguments; {_SHAPES}")
    if roles.count(True) > 1 or (len(roles) == 2 and True not in roles):
        raise RegistrationError(f"{_described(function)}: exactly one of its two parameters must be annotated `Job`; {_SHAPES}")
    payload = next((parameter for parameter, is_job in zip(parameters, roles, strict=True) if not is_job), None)
    if payload is not None:
        default = () if payload.default is payload.empty else (payload.default,)
        return _caller(roles, _decoder(function, hints[payload.name], *default))
    wanted = [argument for parameter in parameters for argument in typing.get_args(hints[parameter.name])]
    if not wanted or wanted[0] is Any:
        return (lambda job, payload: (job,)) if roles else (lambda job, payload: ())
    return _typed_job(_decoder(function, wanted[0]))


def _positional(function: Callable[..., Any]) -> Iterable[inspect.Parameter]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise RegistrationError(f"{_described(function)} has no signature to be read; wrap it in a function of your own") from error
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            yield parameter
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty:
            continue
        else:
            raise RegistrationError(f"{_described(function)} has a parameter {parameter} that nobody fills; {_SHAPES}")


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    target = _unwrapped(function)
    try:
        return typing.get_type_hints(target, include_extras=True)
    except NameError as error:
        raise RegistrationError(
            f"the annotations of {_described(function)} name something that cannot be found ({error}); define it at module level, before the handler"
        ) from error
    except Exception as error:  # an annotation in quotes is any expression, and fails as one
        raise RegistrationError(f"the annotations of {_described(function)} cannot be read ({type(error).__name__}: {error}); {_SHAPES}") from error


def _is_job(function: Callable[..., Any], parameter: inspect.Parameter, hints: dict[str, Any], count: int) -> bool:
    if parameter.name not in hints:
        example = f"{parameter.name}: Job" if count == 1 or parameter.name == "job" else f"{parameter.name}: dict"
        raise RegistrationError(
            f"{_described(function)}: annotate the parameter {parameter.name!r}, for example `{example}`, so that it is plain whether it is the job or the "
            f"payload; {_SHAPES}"
        )
    return hints[parameter.name] is Job or typing.get_origin(hints[parameter.name]) is Job


def _decoder(function: Callable[..., Any], annotation: Any, *default: Any) -> Decode:
    try:
        return decoder(annotation, *default)
    except RegistrationError as error:
        raise RegistrationError(f"{_described(function)}: {error}") from None


def _typed_job(decode: Decode) -> Arguments:
    def arguments(job: Job[Any], payload: job_pb2.Payload) -> tuple[Any, ...]:
        job._value = decode(payload)
        return (job,)

    return arguments


def _caller(roles: list[bool], decode: Decode) -> Arguments:
    if roles == [False]:
        return lambda job, payload: (decode(payload),)
    if roles == [True, False]:
        return lambda job, payload: (job, decode(payload))
    return lambda job, payload: (decode(payload), job)
