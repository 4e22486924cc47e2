"""A payload becomes what the annotation says, or the error names the field and what came; a return value becomes a result."""

import enum
import uuid
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Annotated, Any, Literal, NotRequired, Optional, TypedDict

import pytest
from jobwire.v1 import job_pb2
from jobwire_worker import PayloadError, RegistrationError, ResultError
from jobwire_worker._payloads import converter, decoder, encode_result


class Fit(enum.Enum):
    COVER = "cover"
    CONTAIN = "contain"


@dataclass
class Size:
    width: int
    height: int | None = None


@dataclass
class Request:
    path: str
    sizes: list[Size]
    fit: Fit = Fit.COVER
    tags: dict[str, float] = field(default_factory=dict)


@dataclass
class Tree:
    name: str
    children: list["Tree"] = field(default_factory=list)


@dataclass
class Even:
    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError("number must be even")


class Options(TypedDict):
    quality: int
    strip: NotRequired[bool]


class Model:
    """Looks like pydantic's BaseModel."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @classmethod
    def model_validate(cls, value: Any) -> "Model":
        if value == "bad":
            raise ValueError("bad value")
        return cls(value)

    def model_dump(self, mode: str) -> Any:
        return {"value": self.value, "mode": mode}


MOMENT = "2026-11-22T10:00:00+00:00"


@pytest.mark.parametrize(
    ("annotation", "value", "made"),
    [
        (Any, {"a": [1]}, {"a": [1]}),
        (str, "a", "a"),
        (int, 3, 3),
        (float, 3, 3.0),
        (bool, True, True),
        (dict, {"a": 1}, {"a": 1}),
        (list, [1], [1]),
        (None, None, None),
        (dict[str, Any], {"a": 1}, {"a": 1}),
        (dict[str, Size], {"a": {"width": 1}}, {"a": Size(1)}),
        (list[int], [1, 2], [1, 2]),
        (set[str], ["a"], {"a"}),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
        (int | str, "a", "a"),
        (Optional[int], None, None),  # noqa: UP045  # the old spelling is read as well
        (Size | None, {"width": 1}, Size(1)),
        (Literal["a", 1], 1, 1),
        (Annotated[int, "of pixels"], 1, 1),
        (Fit, "contain", Fit.CONTAIN),
        (Request, {"path": "p", "sizes": [{"width": 1, "height": 2}], "unknown": 1}, Request("p", [Size(1, 2)])),
        (Tree, {"name": "a", "children": [{"name": "b"}]}, Tree("a", [Tree("b")])),
        (Options, {"quality": 80, "strip": True}, {"quality": 80, "strip": True}),
        (Options, {"quality": 80}, {"quality": 80}),
        (datetime, MOMENT, datetime.fromisoformat(MOMENT)),
        (date, "2026-11-22", date(2026, 11, 22)),
        (uuid.UUID, "12345678123456781234567812345678", uuid.UUID(int=0x12345678123456781234567812345678)),
    ],
)
def test_a_value_becomes_what_the_annotation_says(annotation: Any, value: Any, made: Any) -> None:
    assert converter(annotation)(value, "payload") == made


@pytest.mark.parametrize(
    ("annotation", "value", "says"),
    [
        (int, True, "payload: expected a whole number, got true"),
        (int, 1.5, "payload: expected a whole number, got 1.5"),
        (str, None, "payload: expected a string, got null"),
        (bool, 1, "payload: expected true or false, got 1"),
        (float, "1", 'payload: expected a number, got "1"'),
        (list[int], [1, "2"], r'payload\[1\]: expected a whole number, got "2"'),
        (dict[str, int], {"a": []}, r"payload.a: expected a whole number, got \[\]"),
        (Request, {"path": "p"}, "payload: 'sizes' is missing"),
        (Request, {"path": "p", "sizes": [{"width": "x"}]}, r'payload.sizes\[0\].width: expected a whole number, got "x"'),
        (Request, [], r"payload: expected an object \(Request\), got \[\]"),
        (Size | None, {"width": "x"}, "payload.width: expected a whole number"),
        (int | str, [], r"payload: expected int or str, got \[\]"),
        (Fit, "stretch", 'payload: expected one of "cover", "contain", got "stretch"'),
        (Literal["a", 1], True, 'payload: expected one of "a", 1, got true'),
        (tuple[int, int], [1], r"payload: expected an array of 2, got \[1\]"),
        (datetime, "soon", "payload: expected a date and time in ISO 8601"),
        (Even, {"number": 3}, "payload: number must be even"),
        (Options, {}, "payload: 'quality' is missing"),
        (Model, "bad", "payload: not a Model: bad value"),
    ],
)
def test_a_value_that_does_not_fit_names_its_place_and_what_was_expected(annotation: Any, value: Any, says: str) -> None:
    with pytest.raises(PayloadError, match=says):
        converter(annotation)(value, "payload")


def test_a_long_value_is_shown_cut() -> None:
    with pytest.raises(PayloadError) as refused:
        converter(int)("x" * 10_000, "payload")
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("annotation", [complex, object(), dict[int, str], bytes | None, type, set[complex]])
def test_a_type_that_json_cannot_fill_is_refused(annotation: Any) -> None:
    with pytest.raises(RegistrationError):
        converter(annotation)


def test_a_model_is_made_by_its_own_means() -> None:
    assert converter(Model)(5, "payload").value == 5
    assert encode_result(Model(5)).json == '{"value":5,"mode":"json"}'


def test_bytes_get_the_payload_as_it_came() -> None:
    decode = decoder(bytes)
    assert decode(job_pb2.Payload(data=b"\xff\x00")) == b"\xff\x00"
    assert decode(job_pb2.Payload(json='{"a": 1}')) == b'{"a": 1}'
    assert decode(job_pb2.Payload()) == b""


def test_json_is_read_from_data_that_says_so() -> None:
    decode = decoder(dict)
    assert decode(job_pb2.Payload(data=b'{"a":1}', content_type="application/vnd.x+json; charset=utf-8")) == {"a": 1}
    with pytest.raises(PayloadError, match=r"the payload is image/png.*`bytes`"):
        decode(job_pb2.Payload(data=b"{}", content_type="image/png"))


@pytest.mark.parametrize("text", ["{", "nope", "[" * 100_000])
def test_json_that_is_none_is_a_payload_error(text: str) -> None:
    with pytest.raises(PayloadError, match="not valid JSON"):
        decoder(dict)(job_pb2.Payload(json=text))


def test_an_empty_payload_is_null() -> None:
    assert decoder(dict | None)(job_pb2.Payload()) is None
    with pytest.raises(PayloadError, match="expected an object, got null"):
        decoder(dict)(job_pb2.Payload())


@pytest.mark.parametrize(
    ("value", "json", "data"),
    [
        (None, None, None),
        (b"\x00", None, b"\x00"),
        (bytearray(b"a"), None, b"a"),
        ("é", '"é"', None),
        ({"a": 1}, '{"a":1}', None),
        (Request("p", [Size(1)]), '{"path":"p","sizes":[{"width":1,"height":null}],"fit":"cover","tags":{}}', None),
        ([datetime(2026, 1, 1), date(2026, 1, 1), uuid.UUID(int=0)], '["2026-01-01T00:00:00","2026-01-01","00000000-0000-0000-0000-000000000000"]', None),
        ({"s": {1}}, '{"s":[1]}', None),
    ],
)
def test_a_return_value_becomes_a_result(value: Any, json: str | None, data: bytes | None) -> None:
    result = encode_result(value)
    assert (result.json, result.data) == (json, data)
    assert result.result_bytes == len((json or "").encode() or data or b"")


@pytest.mark.parametrize("value", [object(), float("nan"), {"a": complex(1)}, "\ud800", {(1, 2): 3}])
def test_a_return_value_that_cannot_be_sent_is_a_result_error(value: Any) -> None:
    with pytest.raises(ResultError, match="cannot be sent"):
        encode_result(value)


def test_a_result_that_contains_itself_is_a_result_error() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ResultError):
        encode_result(circle)
