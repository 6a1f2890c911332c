"""Pauses that end early: on a clock that tests wind."""

from __future__ import annotations

import asyncio

import pytest

from agent.config import limits
from agent.devkit.clock import FakeClock
from agent.kbs.pauses import Pause, Pauses


class Bed:
    """Sleeps for ever, unless the time asked for is none."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.asked: list[float] = []
        self.chance = 0.5
        self.pauses = Pauses(self.clock, self._sleep, lambda: self.chance)

    async def _sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        if seconds > 0:
            await asyncio.Event().wait()

    async def rest(self, pause: Pause, seconds: float, asked: float = 0.0) -> asyncio.Task[None]:
        pause.begin(self.clock.boot(), seconds, asked)
        task = asyncio.create_task(self.pauses.rest(pause))
        await settle()
        return task


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def bed() -> Bed:
    return Bed()


@pytest.mark.parametrize(
    ("step", "woken"),
    [
        ("auth", [True, True, False, False]),  # a challenge: it can be reached, and no more
        ("attest", [True, True, True, True]),
        ("resource", [True, True, True, True]),
    ],
)
async def test_an_answer_wakes_those_that_wait_for_one(bed: Bed, step: str, woken: list[bool]) -> None:
    tasks = [await bed.rest(Pause(step=one), 5.0) for one in ("", "auth", "attest", "resource")]
    bed.pauses.answered(step)
    await settle()
    assert [task.done() for task in tasks] == woken
    for task in tasks:
        task.cancel()


async def test_a_new_caller_makes_a_pause_short(bed: Bed) -> None:
    task = await bed.rest(Pause(), 5.0)
    bed.chance = 1.0
    bed.pauses.hurry()
    await settle()
    assert bed.asked == [5.0, limits.RETRY_JOINED]
    assert limits.RETRY_JOINED < 1
    bed.chance = 0.5
    bed.pauses.hurry()  # one more of them, in the same pause
    await settle()
    assert bed.asked[-1] == limits.RETRY_JOINED / 2
    bed.chance = 1.0
    bed.pauses.hurry()  # never longer
    await settle()
    assert len(bed.asked) == 3
    task.cancel()


@pytest.mark.parametrize("wake", ["answered", "hurry"])
async def test_what_the_broker_asked_for_holds(bed: Bed, wake: str) -> None:
    task = await bed.rest(Pause(), 5.0, asked=3.0)
    if wake == "answered":
        bed.pauses.answered("auth")
    else:
        bed.pauses.hurry()
    await settle()
    assert bed.asked == [5.0, 3.0]
    task.cancel()


async def test_callers_that_come_again_and_again_cut_a_few_pauses_only(bed: Bed) -> None:
    pause = Pause()
    for _ in range(limits.RETRY_CUTS):
        task = await bed.rest(pause, 5.0)
        for _ in range(10):
            bed.pauses.answered("auth")
            bed.pauses.hurry()
        await settle()
        assert task.done()
    task = await bed.rest(pause, 5.0)
    bed.pauses.answered("auth")
    bed.pauses.hurry()
    await settle()
    assert not task.done()
    assert bed.asked[-1] == 5.0
    task.cancel()


async def test_work_in_the_background_wakes_for_answers_and_not_for_callers(bed: Bed) -> None:
    task = asyncio.create_task(bed.pauses.until_answered(60.0))
    await settle()
    bed.pauses.hurry()
    await settle()
    assert bed.asked == [60.0]
    bed.pauses.answered("resource")
    await settle()
    assert task.done()


async def test_one_that_is_over_is_not_woken(bed: Bed) -> None:
    pause = Pause()
    task = await bed.rest(pause, 5.0)
    task.cancel()
    await settle()
    bed.pauses.answered("auth")
    assert pause.cuts == 0


async def test_a_sleep_that_fails_says_so() -> None:
    async def broken(seconds: float) -> None:
        raise OSError

    pauses, pause = Pauses(FakeClock(), broken, lambda: 0.5), Pause()
    pause.begin(pauses._clock.boot(), 1.0, 0.0)
    with pytest.raises(OSError):
        await pauses.rest(pause)
