"""What ttrpc peers can make the agent hold, and peers that have said all before they are answered."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING

import pytest

from agent.config import limits
from agent.devkit.playground import playground
from agent.http.budget import Budget
from agent.serve.sockets import listen_unix
from agent.serve.ttrpc.server import TtrpcServer
from tests.bench.agent import agent, memory_mb
from tests.integration.mini_ttrpc import MiniClient, frame, request
from tests.integration.support import http
from tests.integration.test_ttrpc import Bench, aside, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

LARGE = 300 * limits.KIB
KERNEL = 2 * limits.TTRPC_SEND_BUFFER + 40 * limits.KIB
"""It takes one more piece than it has room for."""


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def budget() -> Budget:
    return Budget(limits.MIB, 0)


@pytest.fixture
async def server(bench: Bench, budget: Budget, tmp_path: Path) -> AsyncIterator[TtrpcServer]:
    server = TtrpcServer({"t.Bench": {"Echo": bench.echo, "Wait": bench.wait, "Big": bench.big}}, budget)
    await server.start(listen_unix(f"unix://{tmp_path}/s"))
    yield server
    await server.stop(0)


@pytest.fixture
def path(server: TtrpcServer, tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def peers(path: Path) -> Iterator[list[MiniClient]]:
    made = [MiniClient(path) for _ in range(6)]
    yield made
    for peer in made:
        peer.close()


async def works(peer: MiniClient, stream: int = 99) -> bool:
    return await aside(lambda: peer.ask(stream, "t.Bench", "Echo", b"on")) == (stream, 0, "", b"on")


def begin(peer: MiniClient, size: int = LARGE) -> bytes:
    """Send a request without its last byte, which is returned."""
    whole = frame(1, request("t.Bench", "Echo", bytes(size)))
    peer.socket.sendall(whole[:-1])
    return whole[-1:]


def drained(peer: MiniClient) -> bytes:
    """All that comes until the other side closes."""
    data = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := peer.socket.recv(65536):
            data += piece
    return bytes(data)


class TestUnfinishedFrames:
    async def test_the_one_longest_without_progress_is_given_up_and_its_connection_kept(
        self, peers: list[MiniClient], budget: Budget
    ) -> None:
        lasts = []
        for number, peer in enumerate(peers):
            lasts.append(await aside(lambda peer=peer: begin(peer)))  # type: ignore[misc]
            held = min(number + 1, 3) * (LARGE - limits.TTRPC_OWN_BYTES)
            await until(lambda held=held: budget.used >= held)  # type: ignore[misc]
            assert budget.used <= limits.MIB
        for peer, last in zip(peers[:3], lasts[:3], strict=True):
            assert (await aside(peer.receive))[:2] == (1, 8)
            peer.socket.sendall(last)
            assert await works(peer)
        for peer, last in zip(peers[3:], lasts[3:], strict=True):
            peer.socket.sendall(last)
            assert (await aside(peer.receive))[:2] == (1, 0)
        assert budget.used == 0
        assert budget.evicted == 3

    async def test_one_without_room_is_refused_and_its_connection_kept(
        self, peers: list[MiniClient], budget: Budget
    ) -> None:
        last = await aside(lambda: begin(peers[0], 2 * limits.MIB))
        assert (await aside(peers[0].receive))[:2] == (1, 8)
        assert budget.used == 0
        peers[0].socket.sendall(last)
        assert await works(peers[0])

    async def test_one_that_does_not_go_on_is_given_up_and_its_connection_kept(
        self, peers: list[MiniClient], budget: Budget, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "TTRPC_PATIENCE", 0.1)
        last = await aside(lambda: begin(peers[0]))
        assert await aside(peers[0].receive) == (1, 8, "the request did not go on", b"")
        assert budget.used == 0
        peers[0].socket.sendall(last)
        assert await works(peers[0])

    async def test_one_that_goes_on_is_waited_for(
        self, peers: list[MiniClient], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "TTRPC_PATIENCE", 0.2)
        monkeypatch.setattr(limits, "TTRPC_LEAST", 1)

        def slowly() -> tuple[int, int, str, bytes]:
            for byte in frame(1, request("t.Bench", "Echo", b"slow")):
                peers[0].socket.sendall(bytes([byte]))
                time.sleep(0.03)
            return peers[0].receive()

        assert await aside(slowly) == (1, 0, "", b"slow")

    async def test_a_peer_that_leaves_gives_all_back(self, peers: list[MiniClient], budget: Budget) -> None:
        await aside(lambda: begin(peers[0]))
        await until(lambda: budget.used > 0)
        peers[0].close()
        await until(lambda: budget.used == 0)


class TestCallsUnderWay:
    async def test_many_connections_together_are_bounded_and_each_has_a_few(
        self, peers: list[MiniClient], bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "TTRPC_MAX_CALLS", 3)
        monkeypatch.setattr(limits, "TTRPC_OWN_CALLS", 1)
        for stream in (1, 3, 5, 7):
            peers[0].send(stream, request("t.Bench", "Wait", b"x"))
        assert (await aside(peers[0].receive))[:2] == (7, 8)
        peers[1].send(1, request("t.Bench", "Wait", b"x"))
        await until(lambda: bench.started == 4)
        assert (await aside(lambda: peers[1].ask(3, "t.Bench", "Echo", b"")))[:2] == (3, 8)
        bench.gates[b"x"].set()
        assert (await aside(peers[1].receive))[:2] == (1, 0)
        assert [(await aside(peers[0].receive))[1] for _ in range(3)] == [0, 0, 0]
        assert await works(peers[0])

    async def test_their_bytes_are_in_the_account(
        self, peers: list[MiniClient], bench: Bench, budget: Budget
    ) -> None:
        payload = bytes(600 * limits.KIB)
        await aside(lambda: peers[0].send(1, request("t.Bench", "Wait", payload)))
        await until(lambda: bench.started == 1)
        assert budget.used == len(payload) - limits.TTRPC_OWN_BYTES
        await aside(lambda: peers[1].send(1, request("t.Bench", "Wait", payload)))
        assert (await aside(peers[1].receive))[:2] == (1, 8)
        assert await works(peers[1])  # a small one needs no room
        bench.gates[payload].set()
        assert (await aside(peers[0].receive))[:2] == (1, 0)
        await until(lambda: budget.used == 0)


class TestUnreadAnswers:
    async def test_who_reads_nothing_is_cut(
        self, peers: list[MiniClient], budget: Budget, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "TTRPC_PATIENCE", 0.1)
        size = limits.MIB // 2
        peers[0].send(1, request("t.Bench", "Big", b"%d" % size))
        await until(lambda: budget.used > 0)
        await until(lambda: budget.used == 0)
        assert len(await aside(lambda: drained(peers[0]))) < size

    async def test_who_reads_slowly_is_not(
        self, peers: list[MiniClient], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "TTRPC_PATIENCE", 0.4)
        monkeypatch.setattr(limits, "TTRPC_LEAST", 1)
        size = limits.MIB // 2

        def slowly() -> int:
            peers[0].send(1, request("t.Bench", "Big", b"%d" % size))
            got = 0
            while got < size:
                got += len(peers[0].socket.recv(32 * limits.KIB))
                time.sleep(0.05)
            return got

        assert await aside(slowly) >= size

    async def test_what_is_not_read_goes_for_who_needs_the_room(
        self, peers: list[MiniClient], budget: Budget, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "TTRPC_STALLED", 0.0)
        size = b"%d" % (700 * limits.KIB)
        peers[0].send(1, request("t.Bench", "Big", size))
        await until(lambda: budget.used > 0)
        answer = await aside(lambda: peers[1].ask(1, "t.Bench", "Big", size))
        assert (answer[1], len(answer[3])) == (0, int(size))
        assert len(await aside(lambda: drained(peers[0]))) < int(size)
        await until(lambda: budget.used == 0)

    async def test_one_that_is_being_read_does_not(
        self, peers: list[MiniClient], bench: Bench, budget: Budget
    ) -> None:
        size = b"%d" % (700 * limits.KIB)
        peers[0].send(1, request("t.Bench", "Big", size))
        await until(lambda: budget.used > 0)
        assert (await aside(lambda: peers[1].ask(1, "t.Bench", "Big", size)))[1] == 8
        assert len((await aside(peers[0].receive))[3]) == int(size)

    @pytest.mark.parametrize("budget", [Budget(4 * limits.KIB, 0)])
    async def test_refusals_that_nobody_reads_end_the_connection(
        self, peers: list[MiniClient], budget: Budget, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "TTRPC_PATIENCE", 600.0)

        def flood() -> None:
            with contextlib.suppress(ConnectionError):
                peers[0].socket.sendall(frame(2, b"") * 40_000)  # in one piece, so that many are read at once

        await aside(flood)
        await aside(lambda: drained(peers[0]))
        await until(lambda: budget.used == 0)
        assert await works(peers[1])

    async def test_the_kernel_holds_little_of_them(self, peers: list[MiniClient], budget: Budget) -> None:
        size = 900 * limits.KIB
        peers[0].send(1, request("t.Bench", "Big", b"%d" % size))
        await until(lambda: budget.used > 0)
        assert size - budget.used - limits.TTRPC_OWN_BYTES <= KERNEL


class TestHalfClosed:
    async def test_it_gets_its_answers_then_the_end(self, peers: list[MiniClient], bench: Bench) -> None:
        names = [b"%d" % number for number in range(5)]
        for number, name in enumerate(names):
            peers[0].send(2 * number + 1, request("t.Bench", "Wait", name))
        peers[0].socket.shutdown(socket.SHUT_WR)
        await until(lambda: bench.started == 5)
        for number in (3, 0, 4, 1, 2):
            bench.gates[names[number]].set()
            assert await aside(peers[0].receive) == (2 * number + 1, 0, "", names[number])
        assert await aside(lambda: drained(peers[0])) == b""
        assert bench.cancelled == 0

    async def test_a_large_answer_is_written_to_its_end(self, peers: list[MiniClient]) -> None:
        size = 900 * limits.KIB
        peers[0].send(1, request("t.Bench", "Big", b"%d" % size))
        peers[0].socket.shutdown(socket.SHUT_WR)
        assert len((await aside(peers[0].receive))[3]) == size
        assert await aside(lambda: drained(peers[0])) == b""

    async def test_without_a_call_it_is_closed(self, peers: list[MiniClient], budget: Budget) -> None:
        await aside(lambda: begin(peers[0]))
        peers[0].socket.shutdown(socket.SHUT_WR)
        assert await aside(lambda: drained(peers[0])) == b""
        await until(lambda: budget.used == 0)

    async def test_it_gets_its_answers_from_a_server_that_stops(
        self, peers: list[MiniClient], bench: Bench, server: TtrpcServer
    ) -> None:
        for stream in (1, 3):
            peers[0].send(stream, request("t.Bench", "Wait", b"x"))
        peers[0].socket.shutdown(socket.SHUT_WR)
        await until(lambda: bench.started == 2)
        stopping = asyncio.create_task(server.stop(10))
        await asyncio.sleep(0)
        bench.gates[b"x"].set()
        assert {(await aside(peers[0].receive))[:2] for _ in range(2)} == {(1, 0), (3, 0)}
        await asyncio.wait_for(stopping, 5)

    async def test_one_that_is_gone_cancels_all_its_calls(
        self, peers: list[MiniClient], bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "TTRPC_LOOK", 600.0)
        for stream in (1, 3, 5):
            peers[0].send(stream, request("t.Bench", "Wait", b"x"))
        await until(lambda: bench.started == 3)
        peers[0].close()
        await until(lambda: bench.cancelled == 3)

    @pytest.mark.parametrize("stopping", [False, True])
    async def test_one_that_leaves_later_cancels_them_too(
        self,
        peers: list[MiniClient],
        bench: Bench,
        server: TtrpcServer,
        monkeypatch: pytest.MonkeyPatch,
        *,
        stopping: bool,
    ) -> None:
        monkeypatch.setattr(limits, "TTRPC_LOOK", 0.02)
        for stream in (1, 3):
            peers[0].send(stream, request("t.Bench", "Wait", b"x"))
        await until(lambda: bench.started == 2)
        stop = asyncio.create_task(server.stop(15)) if stopping else None
        peers[0].socket.shutdown(socket.SHUT_WR)
        await until(lambda: any(connection._finishing for connection in server._shared.connections))
        assert bench.cancelled == 0
        peers[0].close()
        await until(lambda: bench.cancelled == 2)
        if stop is not None:
            await asyncio.wait_for(stop, 5)


class TestConnections:
    @pytest.fixture(autouse=True)
    def _few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "TTRPC_MAX_CONNECTIONS", 6)
        monkeypatch.setattr(limits, "TTRPC_KEPT_CONNECTIONS", 2)

    async def test_a_process_with_many_loses_an_idle_one_that_never_had_an_answer(
        self, peers: list[MiniClient], path: Path, bench: Bench
    ) -> None:
        assert await works(peers[0])
        peers[1].send(1, request("t.Bench", "Wait", b"x"))
        await until(lambda: bench.started == 1)
        newcomer = MiniClient(path)
        assert await works(newcomer)
        assert await aside(lambda: drained(peers[2])) == b""
        bench.gates[b"x"].set()
        assert (await aside(peers[1].receive))[:2] == (1, 0)
        for peer in (peers[0], *peers[3:]):
            assert await works(peer, 101)
        newcomer.close()

    async def test_another_process_with_one_keeps_it_though_it_is_the_oldest_and_idle(
        self, path: Path
    ) -> None:
        """kata-agent connects when the guest starts, asks when a container does, and never connects again."""
        ask = frame(1, request("t.Bench", "Echo", b"kata"))
        code = (
            f"import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect({str(path)!r})\n"
            f"print('there', flush=True)\nsys.stdin.readline()\ns.sendall({ask!r})\n"
            "print(s.recv(100)[-4:].decode(), flush=True)\n"
        )
        pipe = asyncio.subprocess.PIPE
        kata = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=pipe, stdout=pipe)
        assert kata.stdin is not None
        assert kata.stdout is not None
        assert await asyncio.wait_for(kata.stdout.readline(), 20) == b"there\n"
        many = [MiniClient(path) for _ in range(30)]
        assert await works(many[-1])
        kata.stdin.write(b"\n")
        assert await asyncio.wait_for(kata.stdout.readline(), 20) == b"kata\n"
        await kata.communicate()
        for peer in many:
            peer.close()


async def test_memory_comes_back_after_many_unfinished_frames(tmp_path: Path) -> None:
    """A real daemon: 255 frames of 4 MiB without their last byte."""
    async with playground() as place, agent(tmp_path, place.kbs.url) as running:
        place.kbs.put("default/key/1", b"value")
        url = f"{running.rest}/cdh/resource/default/key/1"
        assert (await http(url)).body == b"value"
        before = memory_mb(running.pid)[0]
        made: list[socket.socket] = []

        def flood() -> None:
            body = struct.pack(">IIBB", limits.TTRPC_MAX_BODY, 1, 1, 0) + bytes(limits.TTRPC_MAX_BODY - 1)
            for _ in range(limits.TTRPC_MAX_CONNECTIONS - 1):
                peer = socket.socket(socket.AF_UNIX)
                made.append(peer)
                peer.settimeout(20)
                peer.connect(running.hub)
                peer.sendall(body)

        await asyncio.wait_for(asyncio.to_thread(flood), 60)
        assert memory_mb(running.pid)[0] - before < 64
        assert (await http(url)).body == b"value"
        last = MiniClient(tmp_path / "cdh.sock")
        assert (await aside(lambda: last.ask(1, "no.Service", "X", b"")))[1] == 3
        for peer in made:
            peer.close()
        last.close()

        def back() -> bool:
            return memory_mb(running.pid)[0] < 1.1 * before

        await until(back)
