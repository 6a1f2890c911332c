from __future__ import annotations

import asyncio

import pytest

from agent.clock import Deadline, SystemClock
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.flight import SingleFlight


class Work:
    """Counts how often it is started; ends when told."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> str:
        self.started += 1
        try:
            return await asyncio.shield(self.gate)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def soon() -> Deadline:
    return Deadline.after(FakeClock(), 60)


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_many_callers_cause_the_work_once() -> None:
    flight: SingleFlight[str, str] = SingleFlight()
    work = Work()
    callers = [asyncio.create_task(flight.join("key", work, soon(), "fetching")) for _ in range(50)]
    await turn()
    assert flight.under_way("key")
    work.gate.set_result("value")
    assert await asyncio.gather(*callers) == ["value"] * 50
    assert work.started == 1
    assert not flight.under_way("key")


async def test_nothing_is_remembered_afterwards() -> None:
    flight: SingleFlight[str, int] = SingleFlight()
    calls: list[int] = []

    async def work() -> int:
        calls.append(1)
        return len(calls)

    assert [await flight.join("key", work, soon(), "x") for _ in range(3)] == [1, 2, 3]


async def test_keys_do_not_wait_for_each_other() -> None:
    flight: SingleFlight[str, str] = SingleFlight()
    slow = Work()
    waiting = asyncio.create_task(flight.join("slow", slow, soon(), "x"))
    quick = Work()
    quick.gate.set_result("done")
    assert await flight.join("quick", quick, soon(), "x") == "done"
    slow.gate.set_result("late")
    assert await waiting == "late"


async def test_all_callers_see_the_failure_and_the_next_one_starts_afresh() -> None:
    flight: SingleFlight[str, str] = SingleFlight()
    work = Work()
    callers = [asyncio.create_task(flight.join("key", work, soon(), "x")) for _ in range(3)]
    await turn()
    work.gate.set_exception(AgentError(ErrorCode.KBS_BUSY))
    for result in await asyncio.gather(*callers, return_exceptions=True):
        assert isinstance(result, AgentError)
        assert result.code is ErrorCode.KBS_BUSY
    again = Work()
    again.gate.set_result("fine")
    assert await flight.join("key", again, soon(), "x") == "fine"


async def test_a_cancelled_caller_does_not_take_the_others_along() -> None:
    flight: SingleFlight[str, str] = SingleFlight()
    work = Work()
    first = asyncio.create_task(flight.join("key", work, soon(), "x"))
    second = asyncio.create_task(flight.join("key", work, soon(), "x"))
    await turn()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    work.gate.set_result("value")
    assert await second == "value"
    assert work.cancelled == 0


async def test_a_callers_own_deadline_ends_only_its_own_wait() -> None:
    flight: SingleFlight[str, str] = SingleFlight()
    work = Work()
    patient = asyncio.create_task(flight.join("key", work, soon(), "x"))
    await turn()
    with pytest.raises(AgentError) as caught:
        await flight.join("key", work, Deadline.after(FakeClock(), 0), "fetching the resource")
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
    work.gate.set_result("value")
    assert await patient == "value"


async def test_the_last_one_to_leave_ends_the_work() -> None:
    flight: SingleFlight[str, str] = SingleFlight()
    work = Work()
    callers = [asyncio.create_task(flight.join("key", work, soon(), "x")) for _ in range(2)]
    await turn()
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    await turn()
    assert work.cancelled == 1
    assert not flight.under_way("key")


async def test_a_newcomer_after_the_last_one_left_starts_afresh() -> None:
    flight: SingleFlight[str, str] = SingleFlight()
    given_up = Work()
    with pytest.raises(AgentError):
        await flight.join("key", given_up, Deadline.after(FakeClock(), 0), "x")
    again = Work()
    again.gate.set_result("fine")
    assert await flight.join("key", again, soon(), "x") == "fine"


async def test_work_with_the_callers_own_deadline_says_what_it_waits_for() -> None:
    flight: SingleFlight[str, str] = SingleFlight()
    deadline = Deadline.after(SystemClock(), 1.0)  # a hundredth of it is left for the reason

    async def work() -> str:
        async with deadline.limit("connecting to the broker"):
            await asyncio.Event().wait()
        return ""

    with pytest.raises(AgentError) as caught:
        await flight.join("key", work, deadline, "fetching")
    assert "connecting to the broker" in caught.value.detail


async def test_cancelling_all_but_one_leaves_it_its_answer() -> None:
    flight: SingleFlight[str, str] = SingleFlight()
    work = Work()
    callers = [asyncio.create_task(flight.join("key", work, soon(), "x")) for _ in range(20)]
    await turn()
    for caller in callers[:-1]:
        caller.cancel()
    await asyncio.gather(*callers[:-1], return_exceptions=True)
    await turn()
    assert work.cancelled == 0
    work.gate.set_result("value")
    assert await callers[-1] == "value"
    assert work.started == 1
