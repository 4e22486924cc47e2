"""Messages of the contract as JSON, read and shown by their descriptors. For messages that hold plain data: rules, identities, groups.

The decisions are those of `jobs.py`: names of proto JSON, words of enums in lower case and without their prefix, 64-bit numbers as numbers. What has no value
is not shown. What is read is read strictly: a member that is there must say something, so a 0 or an empty text is refused where the contract takes it for none.
"""

import re
from collections.abc import Collection, Mapping

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from jobwire_gateway.problems import Problem
from jobwire_gateway.requests import invalid, refuse_unknown

_UPPER = re.compile("(?<=[a-z])([A-Z])")
_WHOLE = {
    FieldDescriptor.CPPTYPE_INT32: 32,
    FieldDescriptor.CPPTYPE_INT64: 64,
    FieldDescriptor.CPPTYPE_UINT32: 32,
    FieldDescriptor.CPPTYPE_UINT64: 64,
}


def shown(message: Message, only: Collection[str] = ()) -> dict[str, object]:
    """The members of a message that have a value; with `only`, those of these names of the contract."""
    return {field.json_name: _shown(field, value) for field, value in message.ListFields() if not only or field.name in only}


def word_of(enum: EnumDescriptor, number: int) -> str | int:
    """The word of an enum's value; a number that has none is given back."""
    value = enum.values_by_number.get(number)
    return number if value is None else value.name.removeprefix(_prefix(enum)).lower()


def words_of(enum: EnumDescriptor) -> list[str]:
    """All words of an enum, but for that of 0."""
    return [value.name.removeprefix(_prefix(enum)).lower() for value in enum.values if value.number]


def number_of(enum: EnumDescriptor, path: str, value: object) -> int:
    """The number of a word.

    Raises:
        Problem: 400, it is none of the enum's.
    """
    words = words_of(enum)
    if not isinstance(value, str) or value not in words:
        raise invalid(path, f"must be one of {', '.join(words)}")
    return enum.values_by_name[_prefix(enum) + value.upper()].number


def read(message: Message, members: Mapping[str, object], path: str = "") -> None:
    """Fill a message from members that are named as the contract's are in JSON. `path` is what leads to them, for the sentence.

    Raises:
        Problem: 400, a member is unknown or is not what it should be.
    """
    fields = fields_of(type(message))
    refuse_unknown(members, fields)
    for name, value in members.items():
        read_field(message, fields[name], value, f"{path}.{name}" if path else name)


def fields_of(message: type[Message]) -> dict[str, FieldDescriptor]:
    """The fields of a message, by their names in JSON."""
    return {field.json_name: field for field in message.DESCRIPTOR.fields}  # type: ignore[misc]  # the two kinds of descriptors are one


def read_field(message: Message, field: FieldDescriptor, value: object, path: str) -> None:
    """Fill one field.

    Raises:
        Problem: 400, the value is not what it should be.
    """
    if _is_map(field):
        _read_map(message, field, value, path)
    elif field.is_repeated:
        _read_list(message, field, value, path)
    elif field.message_type is not None:
        made = getattr(message, field.name)
        made.SetInParent()
        _read_message(made, value, path)
    else:
        setattr(message, field.name, _scalar(field, value, path))


def _read_map(message: Message, field: FieldDescriptor, value: object, path: str) -> None:
    entries, of = getattr(message, field.name), _of_entries(field)
    for key, entry in _object(path, value).items():
        if of.message_type is not None:
            _read_message(entries[key], entry, f"{path}.{key}")
        else:
            entries[key] = string(f"{path}.{key}", entry)


def _read_list(message: Message, field: FieldDescriptor, value: object, path: str) -> None:
    entries = getattr(message, field.name)
    if not isinstance(value, list):
        raise invalid(path, "must be an array")
    for place, entry in enumerate(value):
        if field.message_type is not None:
            _read_message(entries.add(), entry, f"{path}[{place}]")
        else:
            entries.append(_scalar(field, entry, f"{path}[{place}]"))


def _read_message(made: Message, value: object, path: str) -> None:
    match made:
        case Duration():
            made.CopyFrom(duration(path, value))
        case Timestamp():
            made.CopyFrom(date(path, value))
        case _:
            read(made, _object(path, value), path)


def duration(field: str, value: object) -> Duration:
    """Read a length of time.

    Raises:
        Problem: 400, it is none, or it is negative.
    """
    length = Duration()
    try:
        length.FromJsonString(value)  # type: ignore[arg-type]  # it says what is no text
    except ValueError:
        raise invalid(field, 'must be a length of time in seconds with an s, for example "1.5s"') from None
    if length.seconds < 0 or length.nanos < 0:
        raise invalid(field, "must not be negative")
    return length


def date(field: str, value: object) -> Timestamp:
    """Read a date.

    Raises:
        Problem: 400, it is none.
    """
    moment = Timestamp()
    try:
        moment.FromJsonString(value)  # type: ignore[arg-type]  # it says what is no text
    except ValueError:
        raise invalid(field, 'must be a date such as "2030-01-01T00:00:00Z"') from None
    return moment


def string(field: str, value: object) -> str:
    """Read a text, which may be empty.

    Raises:
        Problem: 400, it is none.
    """
    if not isinstance(value, str):
        raise invalid(field, "must be a string")
    return value


def whole(field: str, value: object, bits: int = 32) -> int:
    """Read a whole number.

    Raises:
        Problem: 400, it is none, or does not fit.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # to JSON, 5.0 is as whole as 5
    if isinstance(value, bool) or not isinstance(value, int) or not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise invalid(field, f"must be a whole number of {bits} bits")
    return value


def number(field: str, value: object) -> float:
    """Read a number.

    Raises:
        Problem: 400, it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _not_a_number(field)
    try:
        return float(value)
    except OverflowError:
        raise _not_a_number(field) from None


def _scalar(field: FieldDescriptor, value: object, path: str) -> object:
    if field.enum_type is not None:
        return number_of(field.enum_type, path, value)
    made: object
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if not isinstance(value, bool):
            raise invalid(path, "must be true or false")
        return value
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        made = string(path, value)
    elif field.cpp_type in _WHOLE:
        made = whole(path, value, _WHOLE[field.cpp_type])
    else:
        made = number(path, value)
    if not made and not field.has_presence:
        # To the contract it would be no value at all.
        raise invalid(path, f"must not be {'empty' if made == '' else 0}: leave it out")
    return made


def _object(path: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise invalid(path, "must be an object")
    return value


def _not_a_number(field: str) -> Problem:
    return invalid(field, "must be a number")


def _shown(field: FieldDescriptor, value: object) -> object:
    if _is_map(field):
        of = _of_entries(field)
        return {key: _one(of, entry) for key, entry in sorted(value.items())}  # type: ignore[attr-defined]
    return [_one(field, entry) for entry in value] if field.is_repeated else _one(field, value)  # type: ignore[attr-defined]


def _one(field: FieldDescriptor, value: object) -> object:
    match value:
        case Duration() | Timestamp():
            return value.ToJsonString()
        case Message():
            return shown(value)
        case int() if field.enum_type is not None:
            return word_of(field.enum_type, value)
        case _:
            return value


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _of_entries(field: FieldDescriptor) -> FieldDescriptor:
    """What the values of a map are."""
    assert field.message_type is not None
    return field.message_type.fields_by_name["value"]


def _prefix(enum: EnumDescriptor) -> str:
    return _UPPER.sub(r"_\1", enum.name).upper() + "_"
