"""Leases of tokens: fetched once, renewed in time, never given out again after a refusal."""

from __future__ import annotations

import asyncio

import pytest

from agent.clock import Deadline
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.hub.kms.leases import LONGEST, MARGIN, Lease, Leases
from agent.secret import Secret


class Service:
    def __init__(self, seconds: float = 600) -> None:
        self.seconds = seconds
        self.count = 0
        self.error: AgentError | None = None
        self.go = asyncio.Event()
        self.go.set()

    async def fetch(self, deadline: Deadline) -> Lease[Secret]:
        self.count += 1
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return Lease(Secret(b"token %d" % self.count), self.seconds)


def stage(seconds: float = 600) -> tuple[FakeClock, Leases[Secret], Service, Deadline]:
    clock = FakeClock()
    return clock, Leases(clock, Secret.wipe), Service(seconds), Deadline.after(clock, 20)


async def test_one_fetch_for_all_who_wait() -> None:
    _, leases, service, deadline = stage()
    service.go.clear()
    waiting = [asyncio.ensure_future(leases.get(service.fetch, deadline)) for _ in range(10)]
    await asyncio.sleep(0)
    service.go.set()
    assert {id(token) for token in await asyncio.gather(*waiting)} == {id(await waiting[0])}
    assert service.count == 1


@pytest.mark.parametrize(("seconds", "used"), [(600, 600 - MARGIN), (1e6, LONGEST - MARGIN)])
async def test_renewed_before_it_ends(seconds: float, used: float) -> None:
    clock, leases, service, deadline = stage(seconds)
    first = await leases.get(service.fetch, deadline)
    clock.advance(used - 1)
    assert await leases.get(service.fetch, deadline) is first
    clock.advance(1)
    assert await leases.get(service.fetch, deadline) is not first


async def test_the_wall_clock_does_not_count() -> None:
    clock, leases, service, deadline = stage()
    first = await leases.get(service.fetch, deadline)
    clock.jump_wall(-1e6)
    assert await leases.get(service.fetch, deadline) is first


async def test_one_that_ends_at_once_is_used_once() -> None:
    _, leases, service, deadline = stage(seconds=5)
    await leases.get(service.fetch, deadline)
    await leases.get(service.fetch, deadline)
    assert service.count == 2


async def test_a_refused_one_is_not_given_out_again() -> None:
    _, leases, service, deadline = stage()
    first = await leases.get(service.fetch, deadline)
    second = await leases.get(service.fetch, deadline, stale=first)
    assert second is not first
    assert await leases.get(service.fetch, deadline, stale=first) is second


async def test_a_failure_is_not_kept() -> None:
    _, leases, service, deadline = stage()
    service.error = AgentError(ErrorCode.KMS_BUSY, "for a moment")
    with pytest.raises(AgentError):
        await leases.get(service.fetch, deadline)
    service.error = None
    assert await leases.get(service.fetch, deadline)


async def test_closed_is_wiped() -> None:
    _, leases, service, deadline = stage()
    token = await leases.get(service.fetch, deadline)
    leases.close()
    assert len(token) == 0
    leases.close()
