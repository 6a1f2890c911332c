"""The watchdog's requests against the real sockets of a real daemon."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest

from agent.config import limits
from agent.devkit.playground import playground
from agent.observe.sd_notify import Notifier
from agent.serve.heartbeat import Addresses, Heartbeat
from tests.integration.support import http

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.devkit.playground import Playground

pytestmark = pytest.mark.integration


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0coco-{os.urandom(6).hex()}")
        listener.setblocking(False)
        yield listener


def heartbeat(manager: socket.socket, place: Playground) -> Heartbeat:
    notifier = Notifier(manager.getsockname().decode().replace("\0", "@", 1), 30)
    addresses = Addresses((place.rest,), (place.attester_socket, place.hub_socket))
    return Heartbeat(notifier, lambda: addresses)


async def test_a_daemon_answers_itself_and_nobody_counts_it(
    manager: socket.socket, place: Playground, caplog: pytest.LogCaptureFixture
) -> None:
    before = (await http(f"{place.rest}/metrics")).body
    caplog.clear()
    caplog.set_level(0)
    assert await heartbeat(manager, place).beat(10)
    assert manager.recv(64) == b"WATCHDOG=1"
    assert [record for record in caplog.records if record.name.startswith(("agent", "coco"))] == []
    after = (await http(f"{place.rest}/metrics")).body
    requests = [line for line in after.splitlines() if line.startswith(b"coco_requests")]
    assert requests == [line for line in before.splitlines() if line.startswith(b"coco_requests")]


async def test_callers_that_use_up_all_connections_do_not_get_it_killed(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("REST_MAX_WAITING", "REST_SPARE_CONNECTIONS", "TTRPC_MAX_CONNECTIONS"):
        monkeypatch.setattr(limits, limit, 2)
    async with playground() as place:
        host, _, port = place.rest.removeprefix("http://").rpartition(":")
        streams = [await asyncio.open_connection(host, int(port)) for _ in range(4)]
        path = place.hub_socket.removeprefix("unix://")
        streams += [await asyncio.open_unix_connection(path) for _ in range(2)]
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError, IndexError, ValueError)):
            await http(f"{place.rest}/healthz")  # no room for anybody
        assert await heartbeat(manager, place).beat(10)
        for _, writer in streams:
            writer.transport.abort()


async def test_a_stopped_daemon_is_not_alive(manager: socket.socket, place: Playground) -> None:
    await place.daemon.stop()
    assert not await heartbeat(manager, place).beat(10)
