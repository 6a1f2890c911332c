from __future__ import annotations

import asyncio
import threading

import pytest

from agent.errors import AgentError, ErrorCode
from agent.tee.threaded import OneAtATime


class Device:
    """Blocks until told."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.asked = 0
        self.at_once = 0
        self.most = 0

    def __call__(self) -> bytes:
        self.asked += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.may_end.wait(10)
        self.at_once -= 1
        return b"quote"


async def test_a_device_that_blocks_does_not_hold_up_the_loop() -> None:
    device, turns = Device(), 0
    asked = asyncio.ensure_future(OneAtATime().run(device))
    while turns < 1000:
        await asyncio.sleep(0)
        turns += 1
    assert not asked.done()
    device.may_end.set()
    assert await asked == b"quote"


async def test_a_device_is_asked_one_thing_at_a_time() -> None:
    device, thread = Device(), OneAtATime()
    device.may_end.set()
    assert await asyncio.gather(*(thread.run(device) for _ in range(20))) == [b"quote"] * 20
    assert (device.asked, device.most) == (20, 1)


async def test_a_failure_reaches_the_caller_and_ends_there() -> None:
    def broken() -> bytes:
        raise AgentError(ErrorCode.EVIDENCE_FAILED, "ioctl")

    thread, device = OneAtATime(), Device()
    with pytest.raises(AgentError):
        await thread.run(broken)
    device.may_end.set()
    assert await thread.run(device) == b"quote"


async def test_a_device_that_hangs_keeps_one_thread_and_not_one_per_try() -> None:
    device, thread = Device(), OneAtATime()
    before = set(threading.enumerate())  # other tests' threads may end meanwhile, so these are not counted
    for _ in range(5):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(thread.run(device), 0.01)
    assert len(set(threading.enumerate()) - before) == 1
    device.may_end.set()
    assert await thread.run(device) == b"quote"
    assert device.asked == 2


async def test_work_that_nobody_waits_for_is_still_going_on() -> None:
    device, thread = Device(), OneAtATime()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(thread.run(device), 0.01)
    idle = asyncio.ensure_future(thread.idle())
    await asyncio.sleep(0)
    assert not idle.done()
    device.may_end.set()
    await idle
    await thread.idle()


def test_a_device_that_hangs_does_not_hold_up_the_end_of_the_daemon() -> None:
    device = Device()

    async def daemon() -> None:
        asked = asyncio.ensure_future(OneAtATime().run(device))
        await asyncio.sleep(0)
        asked.cancel()

    asyncio.run(daemon())  # comes back although the thread is there
    assert device.asked <= 1
    device.may_end.set()  # it tells a closed loop, to no effect
