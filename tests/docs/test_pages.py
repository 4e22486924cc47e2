"""What the documentation shows is true: its code runs, and prints what the page says."""

import re
from pathlib import Path

import pytest

from tests.docs.blocks import Reader, blocks, matches
from tests.support.needs import need
from tests.support.process import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")), *sorted((REPOSITORY / "examples").glob("*/README.md"))]
WITH_CODE = [page for page in PAGES if page.exists() and blocks(page)]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_the_code_of_a_page_does_what_the_page_says(page: Path, page_reader: Reader) -> None:
    text = page.read_text()
    if _calls("grpcurl", text) and not (REPOSITORY / ".tools" / "bin" / "grpcurl").exists():
        need("grpcurl")
    for program in ("curl", "jq"):
        if _calls(program, text):
            need(program)
    page_reader.follow(page)


@pytest.mark.parametrize("page", [*PAGES, *sorted((REPOSITORY / "docs" / "adr").glob("*.md"))], ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_every_rpc_that_is_served_is_in_the_page_of_grpcurl() -> None:
    page = (REPOSITORY / "docs" / "grpcurl.md").read_text()
    assert [rpc for rpc in _served_rpcs() if rpc not in page] == []


def test_every_reason_of_the_contract_is_in_the_page_of_the_protocol() -> None:
    contract = (REPOSITORY / "proto" / "jobwire" / "v1" / "error.proto").read_text()
    page = (REPOSITORY / "docs" / "protocol.md").read_text()
    assert set(re.findall(r"^//   ([A-Z_]+) +[A-Z_]+ ", contract, re.MULTILINE)) == set(re.findall(r"^\| `([A-Z_]+)` \| [A-Z_]+ \|", page, re.MULTILINE))


def test_output_is_compared_loosely() -> None:
    assert matches('{"id": "…", "n": 1}', 'before {"id": "abc",\n  "n": 1} after')
    assert not matches('{"n": 1}', '{"n": 2}')


def _served_rpcs() -> list[str]:
    """As `jobwire.v1.JobService/GetJob`, from the contract: those whose comment does not say that they are not served."""
    served = []
    for proto in sorted((REPOSITORY / "proto" / "jobwire" / "v1").glob("*.proto")):
        service, comment = "", ""
        for line in proto.read_text().splitlines():
            if match := re.match(r"service (\w+)", line):
                service = match[1]
            if line.strip().startswith("//"):
                comment += line
            elif match := re.match(r"  rpc (\w+)\(", line):
                if "Not served yet" not in comment:
                    served.append(f"jobwire.v1.{service}/{match[1]}")
                comment = ""
            else:
                comment = ""
    return served


def _calls(program: str, text: str) -> bool:
    """Whether a command of a page begins with the program: at the start of a line, in `$(…)`, or behind a pipe."""
    return re.search(rf"(^|\$\(|\| ){program} ", text, re.MULTILINE) is not None
