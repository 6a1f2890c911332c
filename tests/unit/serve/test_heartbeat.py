"""With sockets in place of the daemon's; against the daemon: tests/integration/test_systemd.py."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from agent.observe.sd_notify import Notifier
from agent.serve.heartbeat import Addresses, Heartbeat, reachable
from agent.serve.ttrpc.server import TtrpcServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def abstract() -> str:
    return f"coco-{os.urandom(6).hex()}"


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{abstract()}")
        listener.setblocking(False)
        yield listener


def heartbeat(manager: socket.socket, *addresses: str, watchdog: float | None = 0.3) -> Heartbeat:
    name = manager.getsockname().decode().replace("\0", "@", 1)
    return Heartbeat(Notifier(name, watchdog), lambda: Addresses(ttrpc=addresses))


def heard(manager: socket.socket) -> int:
    """How many times the manager was told that we are alive."""
    count = 0
    while True:
        try:
            assert manager.recv(64) == b"WATCHDOG=1"
        except BlockingIOError:
            return count
        count += 1


@asynccontextmanager
async def ttrpc() -> AsyncIterator[str]:
    name = abstract()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0{name}")
    listener.listen()
    listener.setblocking(False)
    server = TtrpcServer({})
    await server.start(listener)
    yield f"unix://@{name}"
    await server.stop()


@asynccontextmanager
async def peer(handler: Handler) -> AsyncIterator[str]:
    name = abstract()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await handler(reader, writer)
        writer.close()

    async with await asyncio.start_unix_server(handle, f"\0{name}"):
        yield f"unix://@{name}"


async def test_all_answer_and_the_manager_is_told_once(manager: socket.socket) -> None:
    async with ttrpc() as first, ttrpc() as second:
        assert await heartbeat(manager, first, second).beat(5)
    assert heard(manager) == 1


async def test_one_that_refuses_is_enough_to_say_nothing(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    async with ttrpc() as good:
        assert not await heartbeat(manager, good, f"unix://@{abstract()}").beat(5)
    assert heard(manager) == 0
    [record] = caplog.records
    assert vars(record)["code"] == "ROLE_UNREACHABLE"


async def test_one_that_accepts_and_is_silent_is_not_alive(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while await reader.read(100):
            pass

    async with peer(silent) as address:
        assert not await heartbeat(manager, address).beat(0.05)
    assert heard(manager) == 0
    assert [vars(record)["code"] for record in caplog.records] == ["DEADLINE_EXCEEDED"]


async def test_a_socket_that_nobody_accepts_on_is_not_alive(manager: socket.socket) -> None:
    name = abstract()
    with socket.socket(socket.AF_UNIX) as stopped:
        stopped.bind(f"\0{name}")
        stopped.listen()
        assert not await heartbeat(manager, f"unix://@{name}").beat(0.05)
    assert heard(manager) == 0


async def test_another_program_s_answer_does_not_count(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with peer(rude) as address:
        assert not await heartbeat(manager, address).beat(5)
    assert [vars(record)["code"] for record in caplog.records] == ["ROLE_FAILED"]


async def test_a_daemon_that_is_full_lives(manager: socket.socket) -> None:
    async def full(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with peer(full) as address:
        assert await heartbeat(manager, address).beat(5)
    assert heard(manager) == 1


async def test_it_beats_several_times_within_a_period_until_cancelled(manager: socket.socket) -> None:
    async with ttrpc() as address:
        task = asyncio.create_task(heartbeat(manager, address, watchdog=0.15).run())
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert heard(manager) >= 3


async def test_it_goes_on_after_a_failure(manager: socket.socket) -> None:
    addresses = [f"unix://@{abstract()}"]
    name = manager.getsockname().decode().replace("\0", "@", 1)
    beat = Heartbeat(Notifier(name, 0.15), lambda: Addresses(ttrpc=tuple(addresses)))
    task = asyncio.create_task(beat.run())
    await asyncio.sleep(0.2)
    assert heard(manager) == 0
    async with ttrpc() as address:
        addresses[:] = [address]
        await asyncio.sleep(0.5)
        assert heard(manager) >= 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_without_a_watchdog_nobody_is_asked(manager: socket.socket) -> None:
    await heartbeat(manager, f"unix://@{abstract()}", watchdog=None).run()
    assert heard(manager) == 0


def test_a_socket_of_this_namespace_is_reachable() -> None:
    with socket.socket() as listener:
        assert reachable(listener)
