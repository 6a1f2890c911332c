from __future__ import annotations

import asyncio
import math
import time

import pytest

from agent.clock import Deadline, SystemClock
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode


def test_the_boot_clock_never_goes_back() -> None:
    clock = SystemClock()
    assert clock.boot() <= clock.boot()
    assert clock.wall() > 1_700_000_000


def test_a_deadline_counts_down_and_ends_at_zero() -> None:
    clock = FakeClock()
    deadline = Deadline.after(clock, 10)
    assert deadline.remaining() == 10
    clock.advance(4)
    assert deadline.remaining() == 6
    clock.advance(100)
    assert deadline.remaining() == 0


def test_a_deadline_is_deaf_to_the_wall_clock() -> None:
    clock = FakeClock()
    deadline = Deadline.after(clock, 10)
    clock.jump_wall(-1e6)
    assert deadline.remaining() == 10


def test_a_part_of_the_work_may_only_have_less_time() -> None:
    clock = FakeClock()
    deadline = Deadline.after(clock, 10)
    assert deadline.within(3).remaining() == 3
    assert deadline.within(30).remaining() == 10
    assert Deadline.never(clock).remaining() == math.inf
    assert Deadline.never(clock).within(5).remaining() == 5


async def test_a_passed_deadline_ends_the_work_and_names_it() -> None:
    clock = FakeClock()
    cleaned = False

    async def work() -> None:
        nonlocal cleaned
        async with Deadline.after(clock, 0).limit("waiting for the broker"):
            try:
                await asyncio.Event().wait()
            finally:
                cleaned = True

    with pytest.raises(AgentError) as caught:
        await work()
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
    assert "waiting for the broker" in caught.value.detail
    assert cleaned


async def test_work_within_its_deadline_is_left_alone() -> None:
    async with Deadline.never(FakeClock()).limit("nothing"):
        await asyncio.sleep(0)


async def test_an_error_of_the_work_passes_unchanged() -> None:
    with pytest.raises(AgentError) as caught:
        async with Deadline.after(FakeClock(), 60).limit("work"):
            raise AgentError(ErrorCode.JWE_INVALID)
    assert caught.value.code is ErrorCode.JWE_INVALID


async def test_cancelling_is_not_a_deadline() -> None:
    async def work() -> None:
        async with Deadline.after(FakeClock(), 60).limit("work"):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# --- backstops ------------------------------------------------------------------------------------
def test_each_layer_waits_a_little_longer() -> None:
    deadline = Deadline.after(FakeClock(), 5)
    assert deadline.grace() == pytest.approx(0.05)
    assert deadline.grace(2) == pytest.approx(0.1)
    assert Deadline.after(FakeClock(), 50).grace(2) == 0.25
    assert Deadline(FakeClock(), 2000.0).grace() == 0


def test_a_part_keeps_the_budget_it_has() -> None:
    deadline = Deadline.after(FakeClock(), 10)
    assert deadline.within(30).budget == 10
    assert deadline.within(2).budget == 2
    assert deadline.within(30).at == deadline.at


async def layers(deadline: Deadline) -> None:
    async with (
        deadline.backstop("serving", 2),
        deadline.backstop("sharing"),
        deadline.limit("waiting for the broker"),
    ):
        await asyncio.Event().wait()


async def test_a_backstop_lets_the_body_say_why() -> None:
    deadline = Deadline.after(SystemClock(), 0.05)
    with pytest.raises(AgentError) as caught:
        await layers(deadline)
    assert "waiting for the broker" in caught.value.detail


async def test_a_loop_that_was_held_up_still_lets_the_body_say_why() -> None:
    deadline = Deadline.after(SystemClock(), 0.02)
    asyncio.get_running_loop().call_soon(time.sleep, 0.2)  # all the timers are late at once
    with pytest.raises(AgentError) as caught:
        await layers(deadline)
    assert "waiting for the broker" in caught.value.detail


async def test_a_backstop_ends_a_body_that_keeps_no_deadline() -> None:
    clock = SystemClock()
    began = clock.boot()
    with pytest.raises(AgentError) as caught:
        async with Deadline.after(clock, 0.2).backstop("serving", 2):
            await asyncio.Event().wait()
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
    assert "serving" in caught.value.detail
    assert clock.boot() - began >= 0.2


async def test_a_time_out_of_the_body_is_its_own() -> None:
    for guard in (Deadline.after(FakeClock(), 60).limit, Deadline.after(FakeClock(), 60).backstop):
        with pytest.raises(TimeoutError, match="of a socket"):
            async with guard("work"):
                raise TimeoutError("of a socket")
