"""What gRPC peers can make the agent hold."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from agent.config import limits
from agent.http.budget import Budget
from agent.serve.grpc import server as server_module
from agent.serve.grpc.server import GrpcServer
from tests.integration.mini_grpc import HEADERS, RESET, MiniGrpc, message
from tests.integration.test_grpc import client
from tests.integration.test_ttrpc import Bench, aside, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

grpc: Any = import_module("grpc")


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def budget() -> Budget:
    return Budget(limits.GRPC_SHARE + limits.MIB, 0)


@pytest.fixture
async def path(bench: Bench, budget: Budget, tmp_path: Path) -> AsyncIterator[str]:
    server = GrpcServer({"t.Bench": {"Echo": bench.echo, "Wait": bench.wait, "Big": bench.big}}, budget)
    await server.start(f"unix://{tmp_path}/s")
    yield f"{tmp_path}/s"
    await server.stop(0)


@pytest.fixture
def unread(path: str) -> Iterator[MiniGrpc]:
    """A client that takes not a byte of any answer."""
    made = MiniGrpc(path, window=0)
    yield made
    made.close()


async def echoes(path: str, payload: bytes = b"on") -> bool:
    async with client(f"unix:{path}") as other:
        return await other.call("/t.Bench/Echo", payload, wait_for_ready=True) == payload


async def test_its_share_is_set_aside_while_it_serves(tmp_path: Path) -> None:
    class Peer:
        reserved = stalled = False

        def evict(self) -> None:
            raise AssertionError

    budget, peer = Budget(limits.GRPC_SHARE + 10, 0), Peer()
    server = GrpcServer({}, budget)
    await server.start(f"unix://{tmp_path}/s")
    assert budget.hold(peer, 10)
    assert not budget.hold(peer, 11)
    await server.stop()
    await server.stop()
    assert budget.hold(peer, limits.GRPC_SHARE + 10)
    assert not budget.hold(peer, limits.GRPC_SHARE + 11)


async def test_an_answer_is_in_the_account_until_it_is_read(
    path: str, unread: MiniGrpc, budget: Budget
) -> None:
    size = 600 * limits.KIB
    unread.begin(1, "/t.Bench/Big", message(b"%d" % size), end=True)
    await until(lambda: budget.used == size)
    async with client(f"unix:{path}") as other:
        code, _ = await other.refused("/t.Bench/Big", b"%d" % size)
        assert code == "RESOURCE_EXHAUSTED"
        small = b"%d" % limits.KIB
        assert len(await other.call("/t.Bench/Big", small)) == limits.KIB
    unread.close()
    await until(lambda: budget.used == 0)


async def test_answers_that_are_not_read_are_few(path: str, unread: MiniGrpc, budget: Budget) -> None:
    budget.set_aside(-2 * limits.GRPC_UNREAD)
    size = limits.GRPC_UNREAD // 3
    for stream in (1, 3, 5):
        unread.begin(stream, "/t.Bench/Big", message(b"%d" % size), end=True)
    await until(lambda: budget.used == 3 * size)
    async with client(f"unix:{path}") as other:
        code, _ = await other.refused("/t.Bench/Big", b"%d" % size)
    assert code == "RESOURCE_EXHAUSTED"
    assert await echoes(path, b"!!")


async def test_a_connection_whose_answer_is_not_read_ends(
    bench: Bench, budget: Budget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {"grpc.max_connection_age_ms": 200, "grpc.max_connection_age_grace_ms": 200}
    options = tuple((name, quick.get(name, value)) for name, value in server_module.OPTIONS)
    monkeypatch.setattr(server_module, "OPTIONS", options)
    server = GrpcServer({"t.Bench": {"Echo": bench.echo, "Big": bench.big}}, budget)
    await server.start(f"unix://{tmp_path}/s")
    unread = MiniGrpc(f"{tmp_path}/s", window=0)
    unread.begin(1, "/t.Bench/Big", message(b"%d" % (600 * limits.KIB)), end=True)
    await until(lambda: budget.used > 0)
    with pytest.raises(ConnectionError):
        await aside(lambda: unread.until((RESET, 99)))
    await until(lambda: budget.used == 0)
    assert await echoes(f"{tmp_path}/s")
    unread.close()
    await server.stop(0)


async def test_a_request_that_does_not_end_is_refused_and_gives_up_its_turn(
    path: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "GRPC_PATIENCE", 0.3)
    slow = MiniGrpc(path)
    streams = range(1, 2 * limits.GRPC_LARGE + 1, 2)
    for stream in streams:
        slow.begin(stream, "/t.Bench/Echo", message(bytes(1000))[:-1], end=False)
    await aside(lambda: slow.until(*((HEADERS, stream) for stream in streams)))
    assert bench.contexts == []
    assert await echoes(path)
    slow.close()


async def test_no_more_large_requests_are_read_than_there_are_turns(
    path: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, more = bytes(limits.GRPC_SMALL + 1), 4
    async with client(f"unix:{path}") as asked:
        calls = [
            asyncio.ensure_future(asked.call("/t.Bench/Wait", large)) for _ in range(limits.GRPC_LARGE + more)
        ]
        await until(lambda: bench.started == limits.GRPC_LARGE)
        small = asyncio.ensure_future(asked.call("/t.Bench/Wait", b"small"))
        await asyncio.sleep(0.2)
        assert bench.started == limits.GRPC_LARGE
        bench.gates[large].set()
        bench.gates.setdefault(b"small", asyncio.Event()).set()
        assert [len(answer) for answer in await asyncio.gather(*calls)] == [len(large)] * len(calls)
        assert await small == b"small"


async def test_small_requests_take_no_turn(path: str, bench: Bench) -> None:
    async with client(f"unix:{path}") as asked:
        calls = [
            asyncio.ensure_future(asked.call("/t.Bench/Wait", b"x")) for _ in range(3 * limits.GRPC_LARGE)
        ]
        await until(lambda: bench.started == len(calls))
        bench.gates[b"x"].set()
        assert set(await asyncio.gather(*calls)) == {b"x"}


async def test_a_call_without_a_message_is_refused(path: str, bench: Bench) -> None:
    empty = MiniGrpc(path)
    empty.begin(1, "/t.Bench/Echo", b"", end=True)
    await aside(lambda: empty.until((HEADERS, 1)))
    assert bench.contexts == []
    empty.close()


async def test_what_is_taken_of_a_stream_does_not_grow(path: str) -> None:
    """Before anybody reads: the window of a new stream, as the server's settings say it."""
    peer = MiniGrpc(path)

    def window() -> int:
        top = peer._exactly(9)
        assert top[3] == 4
        body = peer._exactly(int.from_bytes(top[:3], "big"))
        pairs = {body[at + 1]: int.from_bytes(body[at + 2 : at + 6], "big") for at in range(0, len(body), 6)}
        return pairs[4]

    assert await aside(window) == limits.GRPC_WINDOW
    peer.close()


async def test_the_largest_requests_and_answers_pass(path: str) -> None:
    assert await echoes(path, bytes(limits.SEALED_MAX))
    assert await echoes(path, bytes(limits.GRPC_MAX_REQUEST))
