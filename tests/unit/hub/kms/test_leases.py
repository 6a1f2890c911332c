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
        self.credentials = b"of the guest"
        self.missing: AgentError | None = None
        self.used: list[bytes] = []
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def read(self, deadline: Deadline) -> Secret:
        if self.missing is not None:
            raise self.missing
        return Secret(self.credentials)

    async def login(self, credentials: Secret, deadline: Deadline) -> Lease[Secret]:
        self.count += 1
        self.used.append(credentials.reveal())
        self.begun.set()
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
    waiting = [asyncio.ensure_future(leases.get(service.read, service.login, deadline)) for _ in range(10)]
    await asyncio.sleep(0)
    service.go.set()
    assert {id(token) for token in await asyncio.gather(*waiting)} == {id(await waiting[0])}
    assert service.count == 1


@pytest.mark.parametrize(("seconds", "used"), [(600, 600 - MARGIN), (1e6, LONGEST - MARGIN)])
async def test_renewed_before_it_ends(seconds: float, used: float) -> None:
    clock, leases, service, deadline = stage(seconds)
    first = await leases.get(service.read, service.login, deadline)
    clock.advance(used - 1)
    assert await leases.get(service.read, service.login, deadline) is first
    clock.advance(1)
    assert await leases.get(service.read, service.login, deadline) is not first


async def test_the_wall_clock_does_not_count() -> None:
    clock, leases, service, deadline = stage()
    first = await leases.get(service.read, service.login, deadline)
    clock.jump_wall(-1e6)
    assert await leases.get(service.read, service.login, deadline) is first


async def test_one_that_ends_at_once_is_used_once() -> None:
    _, leases, service, deadline = stage(seconds=5)
    await leases.get(service.read, service.login, deadline)
    await leases.get(service.read, service.login, deadline)
    assert service.count == 2


async def test_a_refused_one_is_not_given_out_again() -> None:
    _, leases, service, deadline = stage()
    first = await leases.get(service.read, service.login, deadline)
    second = await leases.get(service.read, service.login, deadline, stale=first)
    assert second is not first
    assert await leases.get(service.read, service.login, deadline, stale=first) is second


async def test_a_failure_is_not_kept() -> None:
    _, leases, service, deadline = stage()
    service.error = AgentError(ErrorCode.KMS_BUSY, "for a moment")
    with pytest.raises(AgentError):
        await leases.get(service.read, service.login, deadline)
    service.error = None
    assert await leases.get(service.read, service.login, deadline)


async def test_a_login_belongs_to_the_bytes_of_the_credentials() -> None:
    _, leases, service, deadline = stage()
    first = await leases.get(service.read, service.login, deadline)
    service.credentials = b"of the guest, replaced"
    second = await leases.get(service.read, service.login, deadline)
    assert second is not first
    assert await leases.get(service.read, service.login, deadline) is second
    assert service.used == [b"of the guest", b"of the guest, replaced"]


@pytest.mark.parametrize(
    "code", [ErrorCode.KMS_CREDENTIALS_MISSING, ErrorCode.KMS_CREDENTIALS_INVALID, ErrorCode.RESOURCE_DENIED]
)
async def test_without_credentials_there_is_no_login(code: ErrorCode) -> None:
    _, leases, service, deadline = stage()
    await leases.get(service.read, service.login, deadline)
    service.missing = AgentError(code, "taken back")
    with pytest.raises(AgentError) as caught:
        await leases.get(service.read, service.login, deadline)
    assert caught.value.code is code
    service.missing = None
    await leases.get(service.read, service.login, deadline)
    assert service.count == 2


async def test_an_outage_of_the_broker_keeps_the_login_for_later() -> None:
    _, leases, service, deadline = stage()
    first = await leases.get(service.read, service.login, deadline)
    service.missing = AgentError(ErrorCode.KBS_UNREACHABLE, "for a moment")
    with pytest.raises(AgentError) as caught:
        await leases.get(service.read, service.login, deadline)
    assert caught.value.code is ErrorCode.KBS_UNREACHABLE
    service.missing = None
    assert await leases.get(service.read, service.login, deadline) is first


async def test_a_login_that_ends_after_its_credentials_were_replaced() -> None:
    _, leases, service, deadline = stage()
    service.go.clear()
    old = asyncio.ensure_future(leases.get(service.read, service.login, deadline))
    await service.begun.wait()
    waiting, service.go = service.go, asyncio.Event()
    service.go.set()
    service.credentials = b"of the guest, replaced"
    new = await leases.get(service.read, service.login, deadline)
    waiting.set()
    assert await old is not new  # who asked before has what belongs to that time
    assert await leases.get(service.read, service.login, deadline) is new
    assert service.used == [b"of the guest", b"of the guest, replaced"]


async def test_each_login_has_a_copy_of_the_credentials_which_is_wiped() -> None:
    _, leases, service, deadline = stage()
    copies: list[Secret] = []

    async def read(limit: Deadline) -> Secret:
        copies.append(await service.read(limit))
        return copies[-1]

    async def login(credentials: Secret, limit: Deadline) -> Lease[Secret]:
        copies.append(credentials)
        return await service.login(credentials, limit)

    await leases.get(read, login, deadline)
    service.credentials, service.error = b"others", AgentError(ErrorCode.KMS_BUSY, "for a moment")
    with pytest.raises(AgentError):
        await leases.get(read, login, deadline)
    assert [len(copy) for copy in copies] == [0] * 4


async def test_closed_is_wiped() -> None:
    _, leases, service, deadline = stage()
    token = await leases.get(service.read, service.login, deadline)
    leases.close()
    assert len(token) == 0
    leases.close()
