from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agent import hardening
from agent.config import limits
from agent.http.budget import Budget
from agent.http.relief import Relief

if TYPE_CHECKING:
    import pytest


class Given:
    """Counts how often memory was given back; ``limits.RELIEF_PAUSE`` is none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        monkeypatch.setattr(hardening, "give_back", self._give_back)
        monkeypatch.setattr(limits, "RELIEF_PAUSE", 0.0)

    def _give_back(self) -> None:
        self.times += 1


class Peer:
    reserved = False
    stalled = False

    def evict(self) -> None:
        raise AssertionError


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0.001)


async def test_memory_goes_back_once_when_most_connections_of_a_rush_are_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given, watch = Given(monkeypatch), Relief()
    for number in range(1, limits.RELIEF_CONNECTIONS + 1):
        watch.rises(number)
    for number in range(limits.RELIEF_CONNECTIONS - 1, limits.RELIEF_CONNECTIONS // 4, -1):
        watch.falls(number)
    await turn()
    assert given.times == 0
    for number in range(limits.RELIEF_CONNECTIONS // 4, -1, -1):
        watch.falls(number)
    await turn()
    assert given.times == 1


async def test_common_traffic_is_no_rush(monkeypatch: pytest.MonkeyPatch) -> None:
    given, watch = Given(monkeypatch), Relief()
    for _ in range(1000):
        watch.rises(limits.RELIEF_CONNECTIONS - 1)
        watch.falls(0)
    await turn()
    assert given.times == 0


async def test_memory_goes_back_when_most_held_bytes_were_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    given, watch = Given(monkeypatch), Relief()
    budget = Budget(limits.BUDGET, 0, limits.RELIEF_BYTES, watch.soon)
    few, much = Peer(), Peer()
    budget.hold(few, limits.RELIEF_BYTES // 8)
    budget.leave(few)
    await turn()
    assert given.times == 0
    budget.hold(much, limits.RELIEF_BYTES)
    budget.hold(few, 1)
    budget.leave(much)
    await turn()
    assert given.times == 1
