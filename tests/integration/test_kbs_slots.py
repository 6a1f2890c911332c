"""Resources that take long, and others beside them, over loopback."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from agent.config import limits
from agent.config.uri import parse_uri
from agent.errors import AgentError, ErrorCode
from tests.integration.raw_kbs import COOKIE, TOKEN, RawServer, clients, plain, reply, soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent.clock import Deadline
    from agent.kbs.client import KbsClient

pytestmark = pytest.mark.integration

SLOW = 300


class Sleepy(RawServer):
    """Answers what has ``/slow/`` in its path when :attr:`gate` is set, everything else at once."""

    def __init__(self) -> None:
        super().__init__(b"")
        self.gate = asyncio.Event()
        self.arrived = asyncio.Condition()
        self.under_way = self.most = 0

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        await reader.readexactly(2 if head.startswith("POST") else 0)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        async with self.arrived:
            self.heads.append(head.split(" ")[1])
            self.arrived.notify_all()
        ended = asyncio.ensure_future(reader.read(1))
        opened = asyncio.ensure_future(self.gate.wait())
        try:
            if "/slow/" in head:
                await asyncio.wait((ended, opened), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return False
            writer.write(reply(b"{}", head=f"Content-Type: text/xml\r\n{COOKIE}Connection: close\r\n"))
            await writer.drain()
            return False
        finally:
            self.under_way -= 1
            ended.cancel()
            opened.cancel()

    async def heard(self, count: int) -> None:
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.heads) >= count)


@asynccontextmanager
async def crowd(names: int = SLOW) -> AsyncIterator[tuple[Sleepy, KbsClient, list[asyncio.Task[bytes]]]]:
    """So many slow names asked for, and as many on their way as may be."""
    server = Sleepy()
    await server.start()
    async with clients() as make:
        client = make(plain(server))
        waiting = [asyncio.create_task(get(client, f"slow/{number}")) for number in range(names)]
        try:
            await server.heard(min(names, limits.KBS_CONNECTIONS - limits.KBS_HANDSHAKES))
            yield server, client, waiting
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await server.stop()


async def get(client: KbsClient, path: str, deadline: Deadline | None = None) -> bytes:
    return (await client.get(parse_uri(f"kbs:///default/{path}"), TOKEN, deadline or soon(40)))[1]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KBS_SLOW_AFTER", 0.1)


async def test_a_fast_name_is_not_behind_slow_ones() -> None:
    async with crowd() as (server, client, waiting):
        for number in range(10):
            assert await get(client, f"fast/{number}") == b"{}"
        assert not any(task.done() for task in waiting)
        server.gate.set()
        assert set(await asyncio.gather(*waiting)) == {b"{}"}
        assert server.most <= limits.KBS_CONNECTIONS
        asked = [server.heads.count(f"/kbs/v0/resource/default/slow/{number}") for number in range(SLOW)]
        assert set(asked) == {1, 2}  # who made room was asked for again, once


async def test_handshakes_do_not_wait_for_resources() -> None:
    async with crowd() as (server, client, waiting):
        before = len(server.heads)
        _, session = await client.auth(b"{}", soon())
        await client.attest(b"{}", session, soon())
        assert "/kbs/v0/auth" in server.heads[before:]
        assert not any(task.done() for task in waiting)


async def test_slow_names_alone_are_left_in_peace() -> None:
    async with crowd(limits.KBS_CONNECTIONS - limits.KBS_HANDSHAKES) as (server, _, waiting):
        await asyncio.sleep(3 * limits.KBS_SLOW_AFTER)
        server.gate.set()
        await asyncio.gather(*waiting)
        assert len(server.heads) == len(waiting)


async def test_one_that_made_room_says_what_it_waited_for() -> None:
    async with crowd(0) as (server, client, _):
        errors = await asyncio.gather(
            *(get(client, f"slow/{number}", soon(1)) for number in range(40)), return_exceptions=True
        )
        assert len(server.heads) >= 40  # all of them were sent
    assert {error.code for error in errors if isinstance(error, AgentError)} == {ErrorCode.KBS_TIMEOUT}
    assert len(errors) == 40
    assert all("answer" in str(error) for error in errors)


async def test_one_whose_caller_leaves_gives_its_place_away() -> None:
    async with crowd() as (_, client, waiting):
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert await get(client, "fast/1") == b"{}"
        slots = client._endpoints.all[0].slots
        assert slots._holds == {}
        assert slots._timer is None
