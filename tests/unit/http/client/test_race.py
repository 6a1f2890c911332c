from __future__ import annotations

import asyncio
import errno
import socket
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import limits
from agent.http.client.race import interleaved, race, telling
from agent.http.resolver import Address
from tests.unit.kbs import PROPERTY

SIX = [Address(int(socket.AF_INET6), (f"2001:db8::{n}", 1, 0, 0)) for n in range(4)]
FOUR = [Address(int(socket.AF_INET), (f"192.0.2.{n}", 1)) for n in range(4)]


def test_families_take_turns() -> None:
    assert interleaved([*SIX[:3], *FOUR[:2]]) == (SIX[0], FOUR[0], SIX[1], FOUR[1], SIX[2])
    assert interleaved([*FOUR[:1], *SIX[:3]]) == (FOUR[0], SIX[0], SIX[1], SIX[2])
    assert interleaved([]) == ()


@PROPERTY
@given(st.permutations([*SIX, *FOUR]))
def test_none_is_lost_and_the_first_stays_first(addresses: list[Address]) -> None:
    order = interleaved(addresses)
    assert order[0] == addresses[0]
    assert sorted(map(repr, order)) == sorted(map(repr, addresses))
    for family in (socket.AF_INET, socket.AF_INET6):
        assert [a for a in order if a.family == family] == [a for a in addresses if a.family == family]


@pytest.mark.parametrize(
    ("numbers", "best"),
    [
        ([errno.ENETUNREACH, errno.ECONNREFUSED, errno.ETIMEDOUT], errno.ECONNREFUSED),
        ([errno.ENETUNREACH, errno.ETIMEDOUT], errno.ETIMEDOUT),
        ([errno.EHOSTUNREACH, errno.ETIMEDOUT], errno.EHOSTUNREACH),
        ([errno.EADDRNOTAVAIL, errno.ENETUNREACH], errno.EADDRNOTAVAIL),
        ([errno.ECONNREFUSED, errno.EMFILE], errno.EMFILE),
    ],
)
def test_which_error_is_told(numbers: list[int], best: int) -> None:
    assert telling([OSError(number, "") for number in numbers]).errno == best


class Socket:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Network:
    """Addresses that answer when the test says so, and time that passes when the test says so."""

    def __init__(self) -> None:
        self.tried: list[Address] = []
        self.answers: dict[Address, asyncio.Future[Socket]] = {}
        self.sockets: list[Socket] = []
        self.pauses: list[float] = []
        self.timers: list[asyncio.Future[None]] = []
        self.moved = asyncio.Event()

    async def dial(self, address: Address) -> socket.socket:
        self.tried.append(address)
        answer = self.answers[address] = asyncio.get_running_loop().create_future()
        self.moved.set()
        return cast("socket.socket", await answer)

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        timer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.timers.append(timer)
        self.moved.set()
        await timer

    def connects(self, address: Address) -> Socket:
        made = Socket()
        self.sockets.append(made)
        self.answers[address].set_result(made)
        return made

    def fails(self, address: Address, number: int) -> None:
        self.answers[address].set_exception(OSError(number, "no"))

    def passes(self) -> None:
        self.timers[-1].set_result(None)

    async def until(self, tried: int) -> None:
        while len(self.tried) < tried or (tried < self.most and len(self.timers) < tried):
            self.moved.clear()
            await self.moved.wait()

    most = 3


def racing(network: Network, addresses: list[Address]) -> asyncio.Task[socket.socket]:
    network.most = len(addresses)
    return asyncio.ensure_future(race(addresses, network.dial, network.pause))


async def test_the_next_one_is_tried_after_a_pause_and_the_first_answer_wins() -> None:
    network = Network()
    task = racing(network, [SIX[0], SIX[1], FOUR[0]])
    await network.until(1)
    assert network.tried == [SIX[0]]
    network.passes()
    await network.until(2)
    assert network.tried == [SIX[0], FOUR[0]]
    assert set(network.pauses) == {limits.HTTP_ADDRESS_PAUSE}
    made = network.connects(FOUR[0])
    assert cast("Socket", await task) is made
    assert not made.closed
    await asyncio.sleep(0)
    assert network.answers[SIX[0]].cancelled()
    assert len(network.tried) == 2


async def test_after_a_failure_the_next_one_is_tried_at_once() -> None:
    network = Network()
    task = racing(network, [SIX[0], FOUR[0]])
    await network.until(1)
    network.fails(SIX[0], errno.ENETUNREACH)
    await network.until(2)
    made = network.connects(FOUR[0])
    assert cast("Socket", await task) is made


async def test_of_two_that_answer_together_one_is_closed() -> None:
    network = Network()
    task = racing(network, [SIX[0], FOUR[0]])
    await network.until(1)
    network.passes()
    await network.until(2)
    network.connects(SIX[0])
    network.connects(FOUR[0])
    won = cast("Socket", await task)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [made.closed for made in network.sockets if made is not won] == [True]
    assert not won.closed


async def test_when_all_fail_the_most_telling_error_is_raised() -> None:
    network = Network()
    task = racing(network, [SIX[0], FOUR[0], SIX[1]])
    for number, (address, code) in enumerate(
        [(SIX[0], errno.ENETUNREACH), (FOUR[0], errno.ECONNREFUSED), (SIX[1], errno.EHOSTUNREACH)], 1
    ):
        await network.until(number)
        network.fails(address, code)
    with pytest.raises(ConnectionRefusedError):
        await task


async def test_a_caller_that_goes_away_leaves_nothing_behind() -> None:
    network = Network()
    task = racing(network, [SIX[0], FOUR[0]])
    await network.until(1)
    network.passes()
    await network.until(2)
    network.connects(FOUR[0])  # in the very moment
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(3):
        await asyncio.sleep(0)
    assert network.answers[SIX[0]].cancelled()
    assert all(made.closed for made in network.sockets)
    assert [each for each in asyncio.all_tasks() if each is not asyncio.current_task()] == []
