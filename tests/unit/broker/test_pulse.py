"""The beat of a queue goes on, whatever one of them meets."""

import asyncio
import logging

import pytest
from jobwire_broker.config import BrokerConfig
from jobwire_broker.rules.partition import Partition
from jobwire_broker.rules.pulse import Pulse
from jobwire_broker.store.answers import PulseReport
from jobwire_broker.store.client import StoreClient

TWICE_S = 5.0


async def test_after_an_answer_that_nobody_understands_the_next_beat_comes(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    beats = 0
    twice = asyncio.Event()

    async def garbage(*_: object) -> PulseReport:
        nonlocal beats
        beats += 1
        if beats > 1:
            twice.set()
        raise ValueError("an answer of another form")

    partition = Partition(StoreClient(BrokerConfig()), "q")
    monkeypatch.setattr(partition.store, "pulse", garbage)
    pulse = Pulse(partition, session_ms=1_000)
    with caplog.at_level(logging.ERROR):
        pulse.beat()
        await asyncio.wait_for(twice.wait(), TWICE_S)
    pulse.stop()
    assert "pulse.failed queue=q" in caplog.text
