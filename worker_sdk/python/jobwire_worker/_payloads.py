"""Payloads into what a handler's annotation asks for, and return values into results.

An annotation is compiled once, when the handler is registered, into a plain function; a type that cannot be filled from JSON is refused there and then.
Unknown fields of an object are ignored, so that a producer may add one before its workers know it.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Literal, NoReturn, Union

from jobwire.v1 import job_pb2

from ._outcomes import NO_RESULT, Completed
from .errors import PayloadError, RegistrationError, ResultError

Convert = Callable[[Any, str], Any]
"""A JSON value and its path, for the error's sentence, into the annotated type."""

Decode = Callable[[job_pb2.Payload], Any]

_MISSING: Any = object()
_MAX_SHOWN = 80


def _jsonable(value: Any) -> Any:
    """What the JSON encoder does not know of itself."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, set | frozenset):
        return list(value)
    dump = getattr(value, "model_dump", None)
    if callable(dump):  # a pydantic model, which we know without depending on it
        return dump(mode="json")
    raise TypeError(f"{type(value).__name__} is neither JSON, bytes nor a dataclass")


encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_jsonable)


_parse = json.JSONDecoder().decode  # what json.loads does for a str, without looking for its options at each call


def encode_result(value: Any) -> Completed:
    """A return value as the job's result. None means no result. Raises ResultError for what is neither bytes nor JSON."""
    if value is None:
        return NO_RESULT
    if isinstance(value, bytes | bytearray | memoryview):
        return Completed(data=bytes(value))
    try:
        text = encoder.encode(value)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ResultError(f"the handler returned a {type(value).__name__} that cannot be sent: {error}") from error
    return Completed(json=text)


def decode_json(payload: job_pb2.Payload) -> Any:
    """The payload as parsed JSON; None when it is empty. Raises PayloadError."""
    content = payload.WhichOneof("content")
    if content is None:
        return None
    if content == "data" and not _is_json(payload.content_type):
        raise PayloadError(f"the payload is {payload.content_type or 'application/octet-stream'}, and the handler expects JSON; annotate it as `bytes`")
    try:
        return _parse(payload.json) if content == "json" else json.loads(payload.data)
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"the payload is not valid JSON: {error}") from error


def _is_json(content_type: str) -> bool:
    media = content_type.partition(";")[0].strip().lower()
    return media == "application/json" or media.endswith("+json")


def _decode_bytes(payload: job_pb2.Payload) -> bytes:
    return payload.json.encode() if payload.WhichOneof("content") == "json" else payload.data


def decoder(annotation: Any, default: Any = _MISSING) -> Decode:
    """How to make a payload into `annotation`. A `default` stands in for an empty payload. Raises RegistrationError for a type that JSON cannot fill."""
    if annotation is bytes:
        return _decode_bytes
    convert = converter(annotation)

    def decode(payload: job_pb2.Payload) -> Any:
        if default is not _MISSING and payload.WhichOneof("content") is None:
            return default
        return convert(decode_json(payload), "payload")

    return decode


def converter(annotation: Any) -> Convert:
    """The function that makes a JSON value into `annotation`. Raises RegistrationError."""
    return _compile(annotation, {})


def _compile(annotation: Any, known: dict[type, Convert]) -> Convert:
    plain = _plain(annotation)
    if plain is not None:
        return plain
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _compile(arguments[0], known)
    if origin in (Union, types.UnionType):
        return _union(arguments, known)
    if origin is Literal:
        return _literal(arguments)
    if origin is not None:
        return _generic(annotation, origin, arguments, known)
    if not isinstance(annotation, type):
        _refuse(annotation)
    return _class(annotation, known)


def _plain(annotation: Any) -> Convert | None:
    try:
        return _PLAIN.get(annotation)
    except TypeError:  # not hashable, and so none of these
        return None


def _refuse(annotation: Any) -> NoReturn:
    name = getattr(annotation, "__qualname__", None) or str(annotation)
    raise RegistrationError(
        f"a payload cannot be made into {name!r}; use a dataclass, a TypedDict, dict, list, str, int, float, bool, bytes, an Enum, datetime, UUID, "
        "or a union or collection of these"
    )


def _fail(path: str, expected: str, value: Any) -> NoReturn:
    shown = json.dumps(value, ensure_ascii=False, default=str)
    if len(shown) > _MAX_SHOWN:
        shown = shown[:_MAX_SHOWN] + "…"
    raise PayloadError(f"{path}: expected {expected}, got {shown}")


# --- plain values ---


def _any(value: Any, path: str) -> Any:
    return value


def _none(value: Any, path: str) -> None:
    if value is not None:
        _fail(path, "null", value)


def _exact(kind: type, expected: str) -> Convert:
    def convert(value: Any, path: str) -> Any:
        return value if type(value) is kind else _fail(path, expected, value)

    return convert


def _float(value: Any, path: str) -> float:
    if type(value) is not float and type(value) is not int:
        _fail(path, "a number", value)
    return float(value)


def _parsed(parse: Callable[[str], Any], expected: str) -> Convert:
    def convert(value: Any, path: str) -> Any:
        if not isinstance(value, str):
            _fail(path, expected, value)
        try:
            return parse(value)
        except ValueError:
            _fail(path, expected, value)

    return convert


_PLAIN: dict[Any, Convert] = {
    Any: _any,
    object: _any,
    None: _none,
    type(None): _none,
    str: _exact(str, "a string"),
    int: _exact(int, "a whole number"),
    bool: _exact(bool, "true or false"),
    float: _float,
    dict: _exact(dict, "an object"),
    list: _exact(list, "an array"),
    datetime: _parsed(datetime.fromisoformat, "a date and time in ISO 8601"),
    date: _parsed(date.fromisoformat, "a date in ISO 8601"),
    uuid.UUID: _parsed(uuid.UUID, "a UUID"),
}


# --- built from others ---


def _union(arguments: Sequence[Any], known: dict[type, Convert]) -> Convert:
    if bytes in arguments:
        raise RegistrationError("a payload is either `bytes` or JSON; `bytes` cannot be one of several choices")
    choices = [_compile(argument, known) for argument in arguments if argument is not type(None)]
    optional = len(choices) < len(arguments)
    names = " or ".join(_name(argument) for argument in arguments)

    def convert(value: Any, path: str) -> Any:
        if value is None and optional:
            return None
        if len(choices) == 1:  # its own sentence knows the field that is wrong
            return choices[0](value, path)
        for choice in choices:
            try:
                return choice(value, path)
            except PayloadError:
                continue
        return _fail(path, names, value)

    return convert


def _name(annotation: Any) -> str:
    return "null" if annotation in (None, type(None)) else getattr(annotation, "__name__", str(annotation))


def _literal(values: Sequence[Any]) -> Convert:
    expected = "one of " + ", ".join(json.dumps(value, default=str) for value in values)

    def convert(value: Any, path: str) -> Any:
        for candidate in values:
            if candidate == value and type(candidate) is type(value):
                return candidate
        return _fail(path, expected, value)

    return convert


def _generic(annotation: Any, origin: Any, arguments: Sequence[Any], known: dict[type, Convert]) -> Convert:
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return _mapping(annotation, arguments, known)
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is ...):
        return _fixed_tuple(arguments, known)
    for kind, make in ((tuple, tuple), (frozenset, frozenset), (set, set), (list, list)):
        if origin is kind:
            return _collection(arguments[0], make, known)
    if origin in (Sequence, Iterable) or origin is typing.get_origin(typing.Sequence[int]):
        return _collection(arguments[0], list, known)
    return _refuse(annotation)


def _mapping(annotation: Any, arguments: Sequence[Any], known: dict[type, Convert]) -> Convert:
    key, item = arguments
    if key is not str and key is not Any:
        raise RegistrationError(f"the keys of a JSON object are strings; write dict[str, …] instead of {annotation}")
    convert_item = _compile(item, known)

    def convert(value: Any, path: str) -> Any:
        if type(value) is not dict:
            _fail(path, "an object", value)
        return {name: convert_item(element, f"{path}.{name}") for name, element in value.items()}

    return convert


def _collection(item: Any, make: Callable[[list[Any]], Any], known: dict[type, Convert]) -> Convert:
    convert_item = _compile(item, known)

    def convert(value: Any, path: str) -> Any:
        if type(value) is not list:
            _fail(path, "an array", value)
        return make([convert_item(element, f"{path}[{index}]") for index, element in enumerate(value)])

    return convert


def _fixed_tuple(arguments: Sequence[Any], known: dict[type, Convert]) -> Convert:
    items = [_compile(argument, known) for argument in arguments]

    def convert(value: Any, path: str) -> Any:
        if type(value) is not list or len(value) != len(items):
            _fail(path, f"an array of {len(items)}", value)
        return tuple(item(element, f"{path}[{index}]") for index, (item, element) in enumerate(zip(items, value, strict=True)))

    return convert


# --- classes ---


def _class(kind: type[Any], known: dict[type, Convert]) -> Convert:
    if kind in known:
        return lambda value, path: known[kind](value, path)  # a class that contains itself: looked up when it is used
    if issubclass(kind, enum.Enum):
        return _enum(kind)
    if typing.is_typeddict(kind):
        return _fields(kind, known, _typed_dict_fields(kind), dict)
    if dataclasses.is_dataclass(kind):
        return _fields(kind, known, _dataclass_fields(kind), lambda values: kind(**values))
    validate = getattr(kind, "model_validate", None)
    if callable(validate):  # a pydantic model, which we know without depending on it
        return _validated(kind, validate)
    _refuse(kind)


def _enum(kind: type[enum.Enum]) -> Convert:
    expected = "one of " + ", ".join(json.dumps(member.value, default=str) for member in kind)

    def convert(value: Any, path: str) -> Any:
        for member in kind:
            if member.value == value and type(member.value) is type(value):
                return member
        return _fail(path, expected, value)

    return convert


def _validated(kind: type, validate: Callable[[Any], Any]) -> Convert:
    def convert(value: Any, path: str) -> Any:
        try:
            return validate(value)
        except ValueError as error:
            raise PayloadError(f"{path}: not a {kind.__name__}: {error}") from error

    return convert


def _hints(kind: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except NameError as error:
        raise RegistrationError(f"the annotations of {kind.__qualname__} name something that cannot be found ({error}); define it at module level") from error


def _dataclass_fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """Per field its type and whether it must be there."""
    hints = _hints(kind)
    return {
        field.name: (hints[field.name], field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING)
        for field in dataclasses.fields(kind)
        if field.init
    }


def _typed_dict_fields(kind: type) -> dict[str, tuple[Any, bool]]:
    required: frozenset[str] = kind.__required_keys__  # type: ignore[attr-defined]  # a TypedDict has it
    fields = {}
    for name, hint in _hints(kind).items():
        if typing.get_origin(hint) in (typing.Required, typing.NotRequired):
            hint = typing.get_args(hint)[0]
        fields[name] = (hint, name in required)
    return fields


def _fields(kind: type, known: dict[type, Convert], fields: Mapping[str, tuple[Any, bool]], make: Callable[[dict[str, Any]], Any]) -> Convert:
    known[kind] = _any  # so that a field of the same type finds it; set for good below
    converters = {name: _compile(hint, known) for name, (hint, _) in fields.items()}
    required = [name for name, (_, must) in fields.items() if must]
    expected = f"an object ({kind.__name__})"

    def convert(value: Any, path: str) -> Any:
        if type(value) is not dict:
            _fail(path, expected, value)
        for name in required:
            if name not in value:
                raise PayloadError(f"{path}: {name!r} is missing")
        values = {name: convert_field(value[name], f"{path}.{name}") for name, convert_field in converters.items() if name in value}
        try:
            return make(values)
        except (TypeError, ValueError) as error:  # __post_init__ refused it
            raise PayloadError(f"{path}: {error}") from error

    known[kind] = convert
    return convert
