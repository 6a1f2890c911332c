"""Ended connections are counted, and logged in sums."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from agent.config import limits
from agent.http.server.exchange import Loss
from agent.observe.metrics import Metrics
from agent.serve.rest.losses import Losses

if TYPE_CHECKING:
    import pytest


async def test_a_thousand_connections_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    # T-LOG-24
    metrics = Metrics()
    losses = Losses(metrics)
    for _ in range(1000):
        losses.add(Loss.REPLACED)
    losses.add(Loss.FULL)
    assert caplog.records == []
    losses.flush()
    (record,) = caplog.records
    assert (record.levelno, vars(record)["count"]) == (logging.WARNING, 1001)
    assert vars(record)["reasons"] == ["full 1", "replaced 1000"]
    value = metrics.registry.get_sample_value
    assert value("coco_connections_ended_total", {"reason": "replaced"}) == 1000
    losses.flush()
    assert len(caplog.records) == 1


async def test_the_line_comes_by_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "LOSSES_PAUSE", 0.0)
    Losses(None).add(Loss.SLOW_HEAD)
    await asyncio.sleep(0.01)
    assert vars(caplog.records[0])["reasons"] == ["slow_head 1"]
