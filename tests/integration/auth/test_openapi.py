"""Calls ask who calls, as the OpenAPI document says; for all the rest of it see tests/integration/gateway/test_openapi.py."""

import asyncio
import sys
from pathlib import Path
from subprocess import PIPE, STDOUT, run

import pytest

from tests.support import Gateway
from tests.support.credentials import Keys
from tests.support.seeds import seeded

_CONFIGURATION = Path(__file__).parents[1] / "gateway" / "schemathesis" / "schemathesis.toml"


@pytest.mark.slow
async def test_no_call_that_asks_for_credentials_does_without(strict_gateway: Gateway, keys: Keys) -> None:
    program, seed = Path(sys.executable).with_name("schemathesis"), str(seeded("schemathesis with a key").randrange(1 << 32))
    command = [str(program), "--config-file", str(_CONFIGURATION), "run", f"{strict_gateway.url}/openapi.json", "--exclude-tag", "Streams", "--no-color"]
    options = ["--checks", "ignored_auth", "--phases", "examples,fuzzing", "--mode", "positive", "--max-examples", "2", "--seed", seed]
    ended = await asyncio.to_thread(run, [*command, *options, "--header", f"Authorization: Bearer {keys.of['all']}"], stdout=PIPE, stderr=STDOUT, text=True)
    assert ended.returncode == 0, ended.stdout[-8_000:]
