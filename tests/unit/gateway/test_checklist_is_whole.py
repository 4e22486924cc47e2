"""Each line of the checklist of docs/watching.md is the name of a test over real sockets, or says there why it is not."""

import re
from collections.abc import Iterator

from tests.support.process import REPOSITORY

_BOUNDS = {"S": 16, "W": 8, "B": 9, "D": 3, "X": 14}
_LINES = {f"{letter}{number:02}" for letter, last in _BOUNDS.items() for number in range(1, last + 1)}
_OVER_SOCKETS = ("tests/integration/gateway", "tests/integration/auth", "tests/system")

_PAGE = (REPOSITORY / "docs" / "watching.md").read_text().partition("\n## The checklist\n")[2]


def test_each_line_is_named_by_a_test_over_sockets_or_says_why_it_is_not() -> None:
    assert _LINES - set(_named()) == {line for cell, rest in _rows() for line in _lines(cell) if rest.startswith("not there")}


def test_each_line_stands_in_the_page_once() -> None:
    assert sorted(line for cell, _ in _rows() for line in _lines(cell)) == sorted(_LINES)


def _named() -> Iterator[str]:
    """The lines with which names of tests begin."""
    for folder in _OVER_SOCKETS:
        for file in sorted((REPOSITORY / folder).rglob("test_*.py")):
            for name in re.findall(r"^(?:async )?def test_((?:[a-z]\d\d_)+)", file.read_text(), re.MULTILINE):
                yield from name.upper().strip("_").split("_")


def _rows() -> list[tuple[str, str]]:
    """The lines of each row, and what stands beside them."""
    return re.findall(r"^\| ([SWBDX]\d\d[^|]*) \| (.*) \|$", _PAGE, re.MULTILINE)


def _lines(cell: str) -> Iterator[str]:
    for first, last in re.findall(r"([SWBDX]\d\d)(?:\u2013[SWBDX](\d\d))?", cell):
        for number in range(int(first[1:]), int(last or first[1:]) + 1):
            yield f"{first[0]}{number:02}"
