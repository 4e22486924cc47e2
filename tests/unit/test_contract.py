"""The comments of the contract: each call says what can go wrong, and what its caller is to do then."""

import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

_ROOT = Path(__file__).parents[2] / "proto/jobwire/v1"
_CODES = {code.name for code in grpc.StatusCode}
_RPC = re.compile(r"((?:^  //.*\n)+)^  rpc (\w+)\(", re.M)
_REASON = re.compile(r"^//   ([A-Z_]+) +([A-Z_]+) +\S.* → \S", re.M)
_ENTRY = re.compile(r"([A-Z_]+)(?: / ([A-Z_]+(?:, [A-Z_]+)*))?: (\S.*) → (\S.*)", re.S)

#: Reasons, each with its code.
_REASONS: dict[str, str] = dict(_REASON.findall((_ROOT / "error.proto").read_text()))


def _calls() -> Iterator[tuple[str, str]]:
    for file in sorted(_ROOT.glob("*_service.proto")):
        for comment, call in _RPC.findall(file.read_text()):
            yield f"{file.stem}.{call}", re.sub(r"^  // ?", "", comment, flags=re.M)


CALLS = dict(_calls())


def test_all_calls_are_found() -> None:
    text = "".join(file.read_text() for file in _ROOT.glob("*_service.proto"))
    assert len(CALLS) == len(re.findall(r"^  rpc ", text, re.M)) > 40
    assert len(_REASONS) > 20


@pytest.mark.parametrize("call", CALLS)
def test_each_error_of_a_call_has_its_code_its_cause_and_what_to_do(call: str) -> None:
    _, found, errors = CALLS[call].rpartition("\nErrors:")
    assert found, "there is no part `Errors:`"
    if errors.startswith(" none of its own"):
        return
    entries = re.split(r"\n  (?=\S)", errors.partition("\n")[2].removeprefix("  "))
    assert entries
    for entry in entries:
        match = _ENTRY.fullmatch(entry.strip())
        assert match, f"no `CODE / REASON: cause → what to do`: {entry}"
        assert match[1] in _CODES
        for reason in filter(None, (match[2] or "").split(", ")):
            assert _REASONS.get(reason) == match[1], f"{reason} is no reason of {match[1]}"
