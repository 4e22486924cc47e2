"""What is under deploy/ fits what is served: rules that hold, and no panel for a metric that is none."""

import base64
import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support import Broker, Gateway, Store
from tests.support.needs import need
from tests.support.process import REPOSITORY, Process
from tests.support.webhooks import WebhooksProcess

DEPLOY = REPOSITORY / "deploy"
RULES = DEPLOY / "prometheus" / "jobwire.rules.yml"

_NAME = re.compile(r"\b(?:jobwire|process)[_:][a-z0-9_:]+")


@pytest.mark.parametrize(
    "arguments", [["check", "rules", "jobwire.rules.yml"], ["check", "config", "prometheus.yml"], ["test", "rules", "jobwire.test.yml"]], ids=" ".join
)
def test_prometheus_takes_the_rules_and_each_alert_fires_when_it_should(arguments: list[str]) -> None:
    ended = subprocess.run([need("promtool"), *arguments], cwd=RULES.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ended.returncode == 0, ended.stdout


def test_every_alert_is_tested_and_names_a_chapter_that_is_there() -> None:
    tests = (RULES.parent / "jobwire.test.yml").read_text()
    for rule in _rules():
        if "alert" in rule:
            assert f"alertname: {rule['alert']}" in tests
            for page, chapter in re.findall(r"(docs/\w+\.md), ([^.]+)\.", rule["annotations"]["description"]):
                assert f"## {chapter}\n" in (REPOSITORY / page).read_text()


def test_the_page_of_metrics_names_every_alert() -> None:
    page = (REPOSITORY / "docs" / "metrics.md").read_text()
    assert re.findall(r"^\| `(Jobwire\w+)` \|", page, re.MULTILINE) == [rule["alert"] for rule in _rules() if "alert" in rule]


async def test_rules_and_dashboard_ask_for_nothing_that_is_not_served(shared_store: Store, tmp_path: Path, queue: str) -> None:
    async with _measured(shared_store, tmp_path, queue) as processes:
        families = {family for process in processes for family in await _families(process)}
    served = families | {f"{family}_{part}" for family in families for part in ("bucket", "count", "sum")}
    recorded = {rule["record"] for rule in _rules() if "record" in rule}
    asked = {name for expression in [*_expressions(), *(rule["expr"] for rule in _rules())] for name in _NAME.findall(expression)}
    assert asked - served - recorded == set()
    assert recorded <= asked, "a rule records what nobody asks for"


async def test_the_page_of_metrics_names_all_that_are_served_and_no_others(shared_store: Store, tmp_path: Path, queue: str) -> None:
    async with _measured(shared_store, tmp_path, queue) as processes:
        served = {family for process in processes for family in await _families(process)}
    page = (REPOSITORY / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"^\| `(jobwire_\w+)", page, re.MULTILINE)) == {name for name in served if name.startswith("jobwire_")}


@asynccontextmanager
async def _measured(store: Store, directory: Path, queue: str) -> AsyncIterator[Sequence[Process]]:
    """One process of each kind that serves metrics."""
    file = directory / "webhooks.yaml"
    file.write_text(f"queue: {queue}\nendpoints:\n  shop:\n    url: https://shop.example/\n    secrets: [{{env: SECRET}}]\n    queues: [{queue}-none]\n")
    env = {"SECRET": "whsec_" + base64.b64encode(b"k" * 32).decode()}
    extra = ["--metrics", "127.0.0.1:0"]
    async with Broker(store, extra=extra) as broker, Gateway(broker, extra=extra) as gateway, WebhooksProcess(broker, file, extra=extra, env=env) as webhooks:
        yield broker, gateway, webhooks


async def _families(process: Process) -> set[str]:
    address = re.findall(r"\.metrics http=(\S+)", process.tail(50))[0]
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        text = (await http.get(f"http://{address}/metrics")).text
    return set(re.findall(r"^# TYPE (\w+) (?:counter|gauge|histogram)", text, re.MULTILINE))


def _rules() -> Iterable[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def _expressions() -> Iterable[str]:
    dashboard = json.loads((DEPLOY / "grafana" / "jobwire.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return [*queries, *(variable["query"]["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query")]
