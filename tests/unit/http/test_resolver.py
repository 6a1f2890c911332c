from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from agent.config import limits
from agent.http.client.exchange import Step
from agent.http.resolver import Address, Resolver, literal

if TYPE_CHECKING:
    from collections.abc import Sequence


class Names:
    def __init__(self, *found: Address) -> None:
        self.found = found
        self.asked: list[tuple[str, int]] = []
        self.ready = asyncio.Event()

    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        self.asked.append((host, port))
        await self.ready.wait()
        return self.found


class Seen:
    def __init__(self) -> None:
        self.steps: list[Step] = []

    def reached(self, step: Step, *, kept: bool = False) -> None:
        self.steps.append(step)


def four(last: int) -> Address:
    return Address(int(socket.AF_INET), (f"192.0.2.{last}", 80))


async def test_an_address_is_not_looked_up() -> None:
    names, seen = Names(), Seen()
    resolver = Resolver(names)
    assert await resolver.addresses("192.0.2.1", 80, seen) == (four(1),)
    assert await resolver.addresses("::1", 80) == (Address(int(socket.AF_INET6), ("::1", 80, 0, 0)),)
    assert (names.asked, seen.steps) == ([], [])
    assert literal("kbs", 80) is None


async def test_callers_share_a_look_up_and_one_that_leaves_does_not_end_it() -> None:
    names, seen = Names(four(1)), Seen()
    resolver = Resolver(names)
    waiting = [asyncio.ensure_future(resolver.addresses("kbs", 80, seen)) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting[0].cancel()
    names.ready.set()
    assert await asyncio.gather(*waiting[1:]) == [(four(1),)] * 2
    assert names.asked == [("kbs", 80)]
    assert seen.steps == [Step.NAME] * 3
    await resolver.addresses("kbs", 80)
    assert len(names.asked) == 2  # nothing is kept


async def test_only_the_first_addresses_of_many_are_tried() -> None:
    names = Names(four(0), *(four(last) for last in range(200)))
    names.ready.set()
    found = await Resolver(names).addresses("kbs", 80)
    assert found == tuple(four(last) for last in range(limits.HTTP_ADDRESSES))


async def test_a_name_without_an_address_is_an_error() -> None:
    names = Names()
    names.ready.set()
    with pytest.raises(OSError, match="no address"):
        await Resolver(names).addresses("kbs", 80)


async def test_closing_ends_the_wait() -> None:
    resolver = Resolver(Names())
    waiting = asyncio.ensure_future(resolver.addresses("kbs", 80))
    await asyncio.sleep(0)
    resolver.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
