"""Our HTTP server on real sockets: time limits, places, bytes, half-closed and slow clients."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from agent import hardening
from agent.config import limits
from agent.config.model import Features, Gateway
from agent.http.budget import Budget
from agent.roles import Fetched, Freshness
from agent.secret import Secret
from agent.serve.rest import listen
from agent.serve.rest.address import bind_tcp
from agent.serve.rest.listen import TIMES, serve
from agent.serve.sockets import listen_unix
from tests.unit.serve.rest.parts import KEY, Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.integration

HOST = b"Host: localhost\r\n"
RESOURCE = b"GET /cdh/resource/default/key/1 HTTP/1.1\r\n" + HOST + b"\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
BODY = b"POST /aa/aael HTTP/1.1\r\n" + HOST + b"Content-Length: 1000\r\n\r\n{"
LARGE = 4 * limits.MIB
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class House:
    """A REST role with small limits."""

    def __init__(self, gate: Gate, port: int, budget: Budget) -> None:
        self.gate = gate
        self.port = port
        self.budget = budget

    async def open(self, first: bytes = b"") -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(first)
        return reader, writer

    async def ask(self, raw: bytes) -> bytes:
        reader, writer = await self.open(raw)
        try:
            async with asyncio.timeout(20):
                return await reader.read()
        finally:
            writer.close()

    def unread(self) -> socket.socket:
        """A client with a small buffer that asks and does not read."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", self.port))
        sock.sendall(RESOURCE)
        return sock

    def ended(self, reason: str) -> float:
        value = self.gate.metrics.registry.get_sample_value
        return value("coco_connections_ended_total", {"reason": reason}) or 0.0


@asynccontextmanager
async def serving(
    *, budget: int = limits.BUDGET, size: int = 0, gateway: Gateway | None = None, **times: float
) -> AsyncIterator[House]:
    gate = Gate(gateway or Gateway(features=Features.ALL))
    if size:
        gate.front.kept = lambda _: Fetched(Secret(bytes(size)), Freshness.HIT)
    account = Budget(budget, 0)
    listeners = bind_tcp("127.0.0.1:0")
    running = await serve(
        gate.app,
        *listeners,
        budget=account,
        metrics=gate.metrics,
        times=replace(TIMES, **{"pace": 0.01, "place": 0.0, **times}),
    )
    try:
        yield House(gate, listeners[0].getsockname()[1], account)
    finally:
        await running.cleanup()


async def gone(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other end closes; a reset counts as closed."""
    async with asyncio.timeout(20):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # other processes and the kernel have no events for us
            await asyncio.sleep(0.005)


async def test_a_head_that_trickles_loses_its_connection() -> None:
    async with serving(head=0.1) as house:
        reader, writer = await house.open(b"GET / HT")
        assert await gone(reader) == b""
        assert house.ended("slow_head") == 1
        writer.close()


async def test_a_silent_connection_ends_after_its_time() -> None:
    async with serving(idle=0.1) as house:
        reader, writer = await house.open()
        assert await gone(reader) == b""
        writer.close()


async def test_a_kept_connection_ends_after_its_time() -> None:
    async with serving(idle=0.1) as house:
        reader, writer = await house.open(RESOURCE)
        assert (await gone(reader)).endswith(KEY)
        writer.close()


async def test_a_body_that_trickles_is_answered_and_ends() -> None:
    async with serving(body_grace=0.1, body_rate=1e6) as house:
        answer = await house.ask(BODY)
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert b"\r\nConnection: close\r\n" in answer
        assert house.ended("slow_body") == 1


async def test_a_reader_that_stops_loses_its_connection() -> None:
    async with serving(size=LARGE, write_grace=0.1, write_rate=1e9) as house:
        sock = house.unread()
        await until(lambda: house.ended("slow_reader") == 1)
        assert house.budget.used == 0
        sock.close()


async def test_a_slow_reader_gets_all_of_it() -> None:
    async with serving(size=LARGE, write_grace=10) as house:
        sock = house.unread()
        await until(lambda: house.budget.used)
        sock.setblocking(False)
        loop, total = asyncio.get_running_loop(), 0
        async with asyncio.timeout(60):
            while total < LARGE:
                total += len(await loop.sock_recv(sock, 200_000))
        sock.close()
        await until(lambda: house.budget.used == 0)


async def test_a_refused_body_does_not_cost_its_answer() -> None:
    # The client writes on: closing at once would be a reset, ahead of the answer.
    async with serving(linger=5) as house:
        head = b"POST /aa/aael HTTP/1.1\r\n" + HOST + b"Content-Length: 90000000\r\n\r\n"
        reader, writer = await house.open(head)
        for _ in range(20):
            writer.write(bytes(50_000))
            await writer.drain()
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413 ")
        writer.close()


async def test_who_sends_on_and_on_is_cut() -> None:
    async with serving(linger=0.1) as house:
        reader, writer = await house.open(b"nonsense\r\n\r\n")
        assert (await gone(reader)).startswith(b"HTTP/1.1 400 ")

        async def send() -> None:
            while True:
                writer.write(bytes(10_000))
                await writer.drain()
                await asyncio.sleep(0.01)

        async with asyncio.timeout(20):
            with pytest.raises(ConnectionError):
                await send()
        writer.close()


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\n", RESOURCE])
async def test_connections_without_a_request_shut_nobody_out(
    monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr(listen, "_most_connections", lambda: 8)
    async with serving() as house:
        held = [await house.open(first) for _ in range(30)]
        assert (await house.ask(HEALTH)).startswith(b"HTTP/1.1 200 ")
        await gone(held[0][0])
        assert house.ended("replaced") >= 22
        assert house.ended("full") == 0
        for _, writer in held:
            writer.close()


async def test_requests_under_way_shut_nobody_out_of_health(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "_most_connections", lambda: 12)
    monkeypatch.setattr(limits, "REST_SPARE_CONNECTIONS", 4)
    async with serving() as house:
        house.gate.roles.hold = asyncio.Event()
        slow = [b"GET /cdh/resource/a/b/%d HTTP/1.1\r\n" % n + HOST + b"\r\n" for n in range(30)]
        held = [await house.open(raw) for raw in slow]
        await until(lambda: len(house.gate.roles.asked) == 8)
        assert (await house.ask(HEALTH)).startswith(b"HTTP/1.1 200 ")
        assert (await held[-1][0].readline()).startswith(b"HTTP/1.1 429 ")
        house.gate.roles.hold.set()
        assert (await held[0][0].readline()).startswith(b"HTTP/1.1 200 ")
        for _, writer in held:
            writer.close()


async def test_a_newcomer_gets_the_slot_of_who_waited_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REST_MAX_WAITING", 4)
    monkeypatch.setattr(limits, "REST_SLOT", 0.05)
    async with serving() as house:  # T-REST-25
        house.gate.roles.hold = asyncio.Event()
        raw = [b"GET /cdh/resource/a/b/%d HTTP/1.1\r\n" % n + HOST + b"\r\n" for n in range(5)]
        held = [await house.open(one) for one in raw[:4]]
        await until(lambda: len(house.gate.roles.asked) == 4)
        await asyncio.sleep(0.06)
        newcomer, writer = await house.open(raw[4])
        assert (await held[0][0].readline()).startswith(b"HTTP/1.1 429 ")
        house.gate.roles.hold.set()
        assert (await newcomer.readline()).startswith(b"HTTP/1.1 200 ")
        assert (await held[1][0].readline()).startswith(b"HTTP/1.1 200 ")
        for _, one in (*held, (newcomer, writer)):
            one.close()


async def test_unfinished_bodies_stay_within_the_account() -> None:
    async with serving(budget=64 * limits.KIB) as house:
        raw = b"POST /cdh/unseal HTTP/1.1\r\n" + HOST + b"Content-Length: 100000\r\n\r\n" + bytes(10_000)
        held = [await house.open(raw) for _ in range(30)]
        await until(lambda: house.ended("evicted") >= 20)
        assert house.budget.used <= 64 * limits.KIB
        assert (await house.ask(HEALTH)).startswith(b"HTTP/1.1 200 ")
        for _, writer in held:
            writer.close()
        await until(lambda: house.budget.used == 0)


async def test_answers_nobody_reads_stay_within_the_account() -> None:
    async with serving(budget=3 * LARGE, size=LARGE) as house:
        held = []
        for _ in range(10):
            held.append(house.unread())
            await asyncio.sleep(0)
        await until(lambda: house.ended("evicted") >= 7)
        assert house.budget.used <= 3 * LARGE
        answer = await house.ask(RESOURCE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert len(answer) > LARGE
        for sock in held:
            sock.close()
        await until(lambda: house.budget.used == 0)


async def test_the_kernel_keeps_little_for_one_connection() -> None:
    async with serving(size=LARGE) as house:
        sock = house.unread()
        await until(lambda: house.budget.used)
        await asyncio.sleep(0.05)
        sock.setblocking(False)
        received = 0
        with suppress(BlockingIOError):  # the server cannot give the kernel more in the meantime
            while True:
                received += len(sock.recv(65536))
        assert received < 8 * limits.HTTP_SEND_BUFFER
        sock.close()


async def test_new_connections_are_taken_a_few_in_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    # T-HTTP-18. All connect while the loop stands: the kernel's queue stays long.
    monkeypatch.setattr(limits, "HTTP_ACCEPTS", 4)
    gate = Gate()
    (listener,) = bind_tcp("127.0.0.2:0")  # it has no twin
    running = await serve(gate.app, listener)
    held = [socket.create_connection(listener.getsockname(), 20) for _ in range(30)]
    counts = [0]
    async with asyncio.timeout(20):
        while counts[-1] < 30:
            await asyncio.sleep(0)
            counts.append(len(running._server.roster))
    assert max(after - before for before, after in pairwise(counts)) <= 4
    for sock in held:
        sock.close()
    await running.cleanup()


async def test_pipelined_requests_that_wait_are_answered_in_order() -> None:
    async with serving() as house:
        raw = [b"GET /cdh/resource/a/b/%d HTTP/1.1\r\n" % n + HOST for n in range(20)]
        answer = await house.ask(b"\r\n".join(raw) + b"Connection: close\r\n\r\n")
        assert answer.count(b"HTTP/1.1 200 OK") == 20
        assert house.gate.roles.asked == [("resource", f"kbs:///a/b/{n}") for n in range(20)]


async def test_a_half_closed_unix_client_gets_its_answer(tmp_path: Path) -> None:
    gate = Gate()
    gate.roles.hold = asyncio.Event()
    path = tmp_path / "rest.sock"
    running = await serve(gate.app, listen_unix(f"unix://{path}"), times=replace(TIMES, pace=0.01))
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(RESOURCE)
    writer.write_eof()
    async with asyncio.timeout(20):
        await gate.roles.entered.wait()
        await asyncio.sleep(0.05)
        assert not gate.roles.cancelled.is_set()
        gate.roles.hold.set()
        assert (await reader.read()).endswith(KEY)
    writer.close()
    await running.cleanup()


@pytest.mark.parametrize("half", [False, True])
async def test_a_unix_client_that_goes_away_cancels_its_request(tmp_path: Path, half: bool) -> None:
    gate = Gate()
    gate.roles.hold = asyncio.Event()
    path = tmp_path / "rest.sock"
    times = replace(TIMES, pace=0.01, linger=0.05)
    running = await serve(gate.app, listen_unix(f"unix://{path}"), times=times)
    _, writer = await asyncio.open_unix_connection(path)
    writer.write(RESOURCE)
    async with asyncio.timeout(20):
        await gate.roles.entered.wait()
        if half:
            writer.write_eof()
            await asyncio.sleep(0.01)
        writer.transport.abort()
        await gate.roles.cancelled.wait()
    await running.cleanup()


async def test_a_half_closed_tcp_client_is_gone() -> None:
    async with serving() as house:
        house.gate.roles.hold = asyncio.Event()
        _, writer = await house.open(RESOURCE)
        async with asyncio.timeout(20):
            await house.gate.roles.entered.wait()
            writer.write_eof()
            await house.gate.roles.cancelled.wait()
        writer.close()


async def test_what_was_asked_before_the_end_is_answered_when_it_is_there() -> None:
    async with serving(size=10) as house:
        reader, writer = await house.open(RESOURCE * 40)
        writer.write_eof()
        assert (await gone(reader)).count(b"HTTP/1.1 200 OK") == 40
        writer.close()


async def test_a_reset_cancels_a_request() -> None:
    async with serving() as house:
        house.gate.roles.hold = asyncio.Event()
        sock = house.unread()
        async with asyncio.timeout(20):
            await house.gate.roles.entered.wait()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            await house.gate.roles.cancelled.wait()


async def test_continue_is_not_said_to_a_body_that_is_refused() -> None:
    async with serving() as house:
        head = b"POST /aa/aael HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        answer = await house.ask(head % (limits.REST_MAX_BODY + 1))
        assert answer.startswith(b"HTTP/1.1 413 ")
        answer = await house.ask((head % 5).replace(b"/aa/aael", b"/nothing"))
        assert answer.startswith(b"HTTP/1.1 404 ")


async def test_several_sockets_share_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REST_MAX_WAITING", 1)
    gate = Gate()
    gate.roles.hold = asyncio.Event()
    path = tmp_path / "rest.sock"
    tcp = bind_tcp("127.0.0.1:0")
    running = await serve(gate.app, *tcp, listen_unix(f"unix://{path}"))
    first, one = await asyncio.open_connection("127.0.0.1", tcp[0].getsockname()[1])
    second, two = await asyncio.open_unix_connection(path)
    async with asyncio.timeout(20):
        one.write(RESOURCE)
        await gate.roles.entered.wait()
        two.write(RESOURCE)
        assert (await second.readline()).startswith(b"HTTP/1.1 429 ")
        gate.roles.hold.set()
        assert (await first.readline()).startswith(b"HTTP/1.1 200 ")
    one.close()
    two.close()
    await running.cleanup()


async def test_memory_goes_back_after_a_rush(monkeypatch: pytest.MonkeyPatch) -> None:
    # T-HTTP-21
    monkeypatch.setattr(limits, "RELIEF_CONNECTIONS", 20)
    monkeypatch.setattr(limits, "RELIEF_PAUSE", 0.01)
    given = asyncio.Event()
    before = hardening.give_back

    def give_back() -> None:
        before()
        given.set()

    monkeypatch.setattr(hardening, "give_back", give_back)
    async with serving() as house:
        for _, writer in [await house.open() for _ in range(19)]:
            writer.close()
        await asyncio.sleep(0.05)
        assert not given.is_set()
        for _, writer in [await house.open(b"GET") for _ in range(30)]:
            writer.close()
        async with asyncio.timeout(20):
            await given.wait()
