"""How requests are counted."""

import pytest
from jobwire_gateway.metrics import GatewayMetrics, Measured
from starlette.types import Message, Receive, Scope, Send


@pytest.mark.parametrize(("method", "label"), [("GET", "GET"), ("PATCH", "PATCH"), ("DELETE", "DELETE"), ("BREW", "other")])
async def test_methods_that_there_are_have_a_series_each_and_all_others_one(method: str, label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        pass

    counted: list[tuple[str, str, int]] = []
    metrics = GatewayMetrics({}, {})
    monkeypatch.setattr(metrics, "observe", lambda method, route, status, seconds: counted.append((method, route, status)))
    await Measured(app, metrics)({"type": "http", "method": method, "path": "/v1/queues/q"}, receive, send)
    assert counted == [(label, "other", 204)]
