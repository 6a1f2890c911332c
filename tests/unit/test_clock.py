from __future__ import annotations

import asyncio
import math

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
