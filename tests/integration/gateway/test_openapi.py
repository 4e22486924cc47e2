"""The OpenAPI document says what the gateway does: schemathesis asks for all that it allows, and for much that it does not; and the page made from it."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import Gateway
from tests.support.process import REPOSITORY
from tests.support.seeds import seeded

_CONFIGURATION = Path(__file__).parent / "schemathesis"

#: RPCs that REST offers in another form, or leaves to gRPC.
_ELSEWHERE = {
    "EnqueueBatch": "enqueue",
    "EnqueueStream": "enqueue",
    "WaitJob": "Prefer: wait",
    "WatchJobs": "the event streams",
    "Subscribe": "the event streams",
    "Work": "workers speak gRPC",
    "LeaseJobs": "workers speak gRPC",
    "FinishJobs": "workers speak gRPC",
    "ExtendLeases": "workers speak gRPC",
    "ReportProgress": "workers speak gRPC",
    "GetServerInfo": "getServer",
    "GetIdentity": "identities have paths of their own",
    "CreateWatchToken": "identities have paths of their own",
    "CreateSessionToken": "identities have paths of their own",
}


@pytest.fixture
async def document(http: httpx.AsyncClient) -> dict[str, Any]:
    answer = await http.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    read: dict[str, Any] = answer.json()
    return read


@pytest.mark.slow
async def test_the_gateway_does_what_its_openapi_document_says(gateway: Gateway) -> None:
    await asyncio.gather(
        _fuzz(gateway, "--exclude-tag", "Streams", "--max-examples", "10"),
        # A stream that begins does not end: so only what must be refused.
        _fuzz(gateway, "--include-tag", "Streams", "--mode", "negative", "--phases", "coverage", "--request-timeout", "5"),
    )


async def _fuzz(gateway: Gateway, *options: str) -> None:
    program, configuration = Path(sys.executable).with_name("schemathesis"), _CONFIGURATION / "schemathesis.toml"
    command = [str(program), "--config-file", str(configuration), "run", f"{gateway.url}/openapi.json", "--checks", "all"]
    common = ["--seed", str(seeded("schemathesis").randrange(1 << 32)), "--continue-on-failure", "--no-color"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(_CONFIGURATION)}
    ended = await asyncio.to_thread(
        subprocess.run, [*command, *common, *options], env=environment, cwd=_CONFIGURATION, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert ended.returncode == 0, ended.stdout[-8_000:]


def test_every_rpc_that_is_served_has_its_call(document: dict[str, Any]) -> None:
    calls = {operation["operationId"].lower() for methods in document["paths"].values() for operation in methods.values()}
    assert [rpc for rpc in _served_rpcs() if rpc.lower() not in calls and rpc not in _ELSEWHERE] == []


def test_every_reference_leads_somewhere_and_every_call_has_a_name_of_its_own(document: dict[str, Any]) -> None:
    text = str(document)
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) <= set(document["components"]["schemas"])
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names))


async def test_the_page_of_the_calls_shows_each_and_needs_nothing_from_elsewhere(http: httpx.AsyncClient, document: dict[str, Any]) -> None:
    answer = await http.get("/docs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = answer.text
    for methods in document["paths"].values():
        for operation in methods.values():
            assert f'id="{operation["operationId"]}"' in page
    assert not re.search(r"<script|<style|\sstyle=|\son\w+=|https?:", page)
    for target in set(re.findall(r'(?:src|href)="([^"#]+)"', page)):
        assert (await http.get(f"/{target.removeprefix('.')}")).status_code == 200, target
    assert set(re.findall(r'href="#(\w+)"', page)) <= set(re.findall(r'id="(\w+)"', page))


def test_the_table_of_the_page_about_rest_has_every_call_and_no_other(document: dict[str, Any]) -> None:
    page = (REPOSITORY / "docs" / "rest.md").read_text()
    listed = re.findall(r"^\| `([A-Z]+) (/[^?`]*)", page, re.MULTILINE)
    assert sorted(listed) == sorted((method.upper(), path) for path, methods in document["paths"].items() for method in methods)


def _served_rpcs() -> list[str]:
    """The names of those whose comment does not say that they are not served."""
    served = []
    for proto in sorted((REPOSITORY / "proto" / "jobwire" / "v1").glob("*.proto")):
        comment = ""
        for line in proto.read_text().splitlines():
            if line.strip().startswith("//"):
                comment += line
                continue
            if (match := re.match(r"  rpc (\w+)\(", line)) and "Not served yet" not in comment:
                served.append(match[1])
            comment = ""
    return served
