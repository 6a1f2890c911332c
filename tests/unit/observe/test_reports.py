from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from agent.devkit.clock import FakeClock
from agent.observe.reports import PAUSE, LoopReports

if TYPE_CHECKING:
    import pytest

CROWD: dict[str, object] = {"message": "socket.accept() out of system resource", "exception": OSError(24, "")}


async def test_connections_that_wait_are_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock, loop = FakeClock(), asyncio.get_running_loop()
    reports = LoopReports(clock.boot)
    for _ in range(500):
        reports(loop, CROWD)
    clock.advance(PAUSE)
    reports(loop, CROWD)
    said = [(record.code, record.count) for record in caplog.records]  # type: ignore[attr-defined]
    assert said == [("GUEST_EXHAUSTED", 1), ("GUEST_EXHAUSTED", 500)]


async def test_everything_else_is_reported_as_always(caplog: pytest.LogCaptureFixture) -> None:
    LoopReports()(asyncio.get_running_loop(), {"message": "Task was destroyed"})
    assert [(record.name, record.levelno) for record in caplog.records] == [("asyncio", logging.ERROR)]
    assert "Task was destroyed" in caplog.text
