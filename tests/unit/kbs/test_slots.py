from __future__ import annotations

import asyncio

import pytest

from agent.config import limits
from agent.kbs.progress import Phase, Progress
from agent.kbs.slots import Slots

ALL = limits.KBS_CONNECTIONS - limits.KBS_HANDSHAKES


class Crowd:
    """Exchanges that hold their places until they are cancelled, on a loop whose time stands still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slots = Slots()
        self.now = 100.0
        self.held: list[int] = []
        self.made_room: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)

    async def ask(self, *numbers: int, phase: Phase) -> None:
        self.tasks += [asyncio.create_task(self._ask(number, phase)) for number in numbers]
        await self.settled()

    async def _ask(self, number: int, phase: Phase) -> None:
        async with self.slots.hold(bytes([number]), Progress(phase)):
            self.held.append(number)
            await asyncio.Event().wait()
        self.made_room.append(number)

    async def settled(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def wait(self, seconds: float) -> None:
        self.now += seconds
        self.slots._settle()
        await self.settled()

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        assert self.slots._holds == {}
        assert self.slots._timer is None


async def test_those_that_take_long_make_room_without_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd(monkeypatch)
    await crowd.ask(*range(ALL + 3), phase=Phase.ANSWER)
    assert crowd.held == list(range(ALL))
    await crowd.wait(limits.KBS_SLOW_AFTER)
    assert len(crowd.made_room) == 3
    assert sorted(crowd.held[ALL:]) == [ALL, ALL + 1, ALL + 2]
    await crowd.close()


async def test_those_that_still_connect_keep_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd(monkeypatch)
    await crowd.ask(*range(ALL + 3), phase=Phase.CONNECT)
    await crowd.wait(limits.KBS_SLOW_AFTER)
    await crowd.wait(limits.KBS_SLOW_AFTER)
    assert crowd.made_room == []
    await crowd.close()


async def test_what_the_body_raises_passes_by() -> None:
    slots = Slots()
    for error in (TimeoutError, ValueError):
        with pytest.raises(error):
            async with slots.hold(b"name", Progress()):
                raise error
    assert slots._holds == {}


async def test_one_that_is_cancelled_while_it_waits_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd(monkeypatch)
    await crowd.ask(*range(ALL + 1), phase=Phase.ANSWER)
    crowd.tasks[-1].cancel()
    await crowd.settled()
    assert len(crowd.slots._holds) == ALL
    assert crowd.slots._timer is None
    crowd.tasks[0].cancel()
    await crowd.ask(200, phase=Phase.ANSWER)
    assert crowd.held[-1] == 200
    await crowd.close()
