from __future__ import annotations

import asyncio
import base64
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
import pytest

from agent.clock import Deadline, SystemClock
from agent.config import limits
from agent.config.model import KeyAlgorithm
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.http.budget import Budget
from agent.kbs.keys import TeeKey
from agent.kbs.token import encode_token, held_token
from agent.roles import MeasurementResult
from agent.secret import Secret
from agent.serve.sockets import listen_unix
from agent.serve.ttrpc import server as server_module
from agent.serve.ttrpc.client import TtrpcClient
from agent.serve.ttrpc.codec import StatusError
from agent.serve.ttrpc.remote import RemoteAttester, RemoteHub, RemoteTokens
from agent.serve.ttrpc.server import Context, TtrpcServer
from agent.serve.ttrpc.services import aa_services, cdh_services
from tests.integration.mini_ttrpc import MiniClient, frame, request, text
from tests.unit.serve.ttrpc.roles import Role, front_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.integration

T = TypeVar("T")
RESOURCE = "api.GetResourceService"


def soon(seconds: float = 20) -> Deadline:
    return Deadline.after(SystemClock(), seconds)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for happens on the far side of a socket
            await asyncio.sleep(0.005)


async def aside(work: Callable[[], T]) -> T:
    return await asyncio.wait_for(asyncio.to_thread(work), 20)


class Bench:
    """Handlers for tests of the server itself."""

    def __init__(self) -> None:
        self.gates: dict[bytes, asyncio.Event] = {}
        self.started = 0
        self.cancelled = 0
        self.contexts: list[Context] = []

    async def echo(self, payload: bytes, context: Context) -> bytes:
        self.contexts.append(context)
        return payload

    async def wait(self, payload: bytes, context: Context) -> bytes:
        self.started += 1
        try:
            await self.gates.setdefault(payload, asyncio.Event()).wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return payload

    async def big(self, payload: bytes, context: Context) -> bytes:
        self.started += 1
        return bytes(int(payload))

    async def defect(self, payload: bytes, context: Context) -> bytes:
        raise KeyError(payload)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def budget() -> Budget:
    return Budget(limits.BUDGET, limits.BUDGET_RESERVE)


@pytest.fixture
async def path(bench: Bench, budget: Budget, tmp_path: Path) -> AsyncIterator[Path]:
    methods = {"Echo": bench.echo, "Wait": bench.wait, "Big": bench.big, "Defect": bench.defect}
    server = TtrpcServer({"t.Bench": methods}, budget)
    await server.start(listen_unix(f"unix://{tmp_path}/s"))
    yield tmp_path / "s"
    await server.stop(0)


@pytest.fixture
async def client(path: Path) -> AsyncIterator[TtrpcClient]:
    client = TtrpcClient(f"unix://{path}")
    yield client
    await client.close()


@pytest.fixture
async def mini(path: Path) -> AsyncIterator[MiniClient]:
    mini = MiniClient(path)
    yield mini
    mini.close()


class TestStreams:
    async def test_200_calls_are_answered_in_any_order(self, client: TtrpcClient, bench: Bench) -> None:
        names = [b"%d" % i for i in range(200)]
        calls = {n: asyncio.create_task(client.call("t.Bench", "Wait", n, soon())) for n in names}
        await until(lambda: bench.started == 200)
        done: list[bytes] = []
        for name in reversed(names):
            bench.gates[name].set()
            done.append(await calls[name])
        assert done == names[::-1]

    async def test_a_connection_that_is_idle_for_days_is_kept(
        self, mini: MiniClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """kata-agent connects once, and never again."""
        assert await asyncio.to_thread(mini.ask, 1, "t.Bench", "Echo", b"first") == (1, 0, "", b"first")
        loop = asyncio.get_running_loop()
        now = loop.time
        # Whatever waits for a time has reached it.
        monkeypatch.setattr(loop, "time", lambda: now() + 3 * 86400)
        await asyncio.sleep(0.05)
        monkeypatch.undo()
        assert await asyncio.to_thread(mini.ask, 3, "t.Bench", "Echo", b"later") == (3, 0, "", b"later")

    async def test_a_slow_call_does_not_hold_up_others(self, client: TtrpcClient, bench: Bench) -> None:
        slow = asyncio.create_task(client.call("t.Bench", "Wait", b"slow", soon()))
        await until(lambda: bench.started == 1)
        assert await client.call("t.Bench", "Echo", b"quick", soon()) == b"quick"
        bench.gates[b"slow"].set()
        assert await slow == b"slow"

    async def test_a_client_that_shares_no_code_is_understood(self, mini: MiniClient, bench: Bench) -> None:
        answer = await aside(lambda: mini.ask(1, "t.Bench", "Echo", b"payload"))
        assert answer == (1, 0, "", b"payload")
        assert bench.contexts == [Context(f"pid={os.getpid()} uid={os.getuid()}", None, os.getuid())]

    async def test_too_many_calls_at_once_are_refused_one_by_one(
        self, mini: MiniClient, bench: Bench
    ) -> None:
        def flood() -> tuple[int, int, str, bytes]:
            for i in range(limits.TTRPC_MAX_STREAMS + 1):
                mini.send(2 * i + 1, request("t.Bench", "Wait", b"x"))
            return mini.receive()

        stream, code, _, _ = await aside(flood)
        assert (stream, code) == (2 * limits.TTRPC_MAX_STREAMS + 1, 8)
        bench.gates[b"x"].set()
        answers = [await aside(mini.receive) for _ in range(limits.TTRPC_MAX_STREAMS)]
        assert {answer[1] for answer in answers} == {0}


class TestProtocolErrors:
    """Each is answered, and the connection goes on."""

    @pytest.fixture(autouse=True)
    async def _goes_on(self, mini: MiniClient) -> AsyncIterator[None]:
        yield
        assert await aside(lambda: mini.ask(99, "t.Bench", "Echo", b"on")) == (99, 0, "", b"on")

    async def test_unknown_service(self, mini: MiniClient) -> None:
        answer = await aside(lambda: mini.ask(1, "api.Nothing", "X", b""))
        assert answer == (1, 3, "api.Nothing service does not exist", b"")

    async def test_unknown_method(self, mini: MiniClient) -> None:
        stream, code, message, _ = await aside(lambda: mini.ask(1, "t.Bench", "Nothing", b""))
        assert (stream, code) == (1, 12)
        assert message.startswith("Nothing method")

    async def test_garbage_in_the_envelope(self, mini: MiniClient) -> None:
        await aside(lambda: mini.send(5, b"\xff\xff\xff"))
        stream, code, _, _ = await aside(mini.receive)
        assert (stream, code) == (5, 3)

    @pytest.mark.parametrize("stream", [0, 2, 2**32 - 2])
    async def test_even_and_zero_stream_ids(self, mini: MiniClient, stream: int) -> None:
        answer = await aside(lambda: mini.ask(stream, "t.Bench", "Echo", b""))
        assert answer[:2] == (stream, 3)

    async def test_a_stream_id_in_use(self, mini: MiniClient, bench: Bench) -> None:
        await aside(lambda: mini.send(1, request("t.Bench", "Wait", b"first")))
        await aside(lambda: mini.send(3, request("t.Bench", "Wait", b"other")))
        await until(lambda: bench.started == 2)
        answer = await aside(lambda: mini.ask(1, "t.Bench", "Echo", b"again"))
        assert answer[:2] == (1, 3)
        bench.gates[b"other"].set()
        assert await aside(mini.receive) == (3, 0, "", b"other")
        bench.gates[b"first"].set()
        assert await aside(mini.receive) == (1, 0, "", b"first")

    async def test_a_request_of_4_mib_and_a_byte(self, mini: MiniClient) -> None:
        await aside(lambda: mini.send(7, bytes(limits.TTRPC_MAX_BODY + 1)))
        stream, code, message, _ = await aside(mini.receive)
        assert (stream, code) == (7, 3)
        assert "4194305" in message

    async def test_streaming(self, mini: MiniClient) -> None:
        await aside(lambda: mini.send(1, request("t.Bench", "Echo", b""), flags=2))
        assert (await aside(mini.receive))[:2] == (1, 12)

    async def test_data_for_no_stream(self, mini: MiniClient) -> None:
        await aside(lambda: mini.send(1, b"data", kind=3))
        assert (await aside(mini.receive))[:2] == (1, 3)

    async def test_data_for_a_call_under_way_does_not_end_it(self, mini: MiniClient, bench: Bench) -> None:
        await aside(lambda: mini.send(1, request("t.Bench", "Wait", b"x")))
        await until(lambda: bench.started == 1)
        await aside(lambda: mini.send(1, b"data", kind=3))
        assert (await aside(lambda: mini.ask(3, "t.Bench", "Echo", b"")))[:2] == (3, 0)
        bench.gates[b"x"].set()
        assert await aside(mini.receive) == (1, 0, "", b"x")

    @pytest.mark.parametrize("kind", [0, 2, 4, 255])
    async def test_other_frames_are_not_answered(self, mini: MiniClient, kind: int) -> None:
        await aside(lambda: mini.send(1, b"whatever", kind=kind))
        assert await aside(lambda: mini.ask(3, "t.Bench", "Echo", b"x")) == (3, 0, "", b"x")

    async def test_a_defect_is_answered_without_the_value_it_choked_on(
        self, mini: MiniClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        answer = await aside(lambda: mini.ask(1, "t.Bench", "Defect", b"hunter2"))
        assert answer == (1, 13, "The agent failed internally.", b"")
        (record,) = [r for r in caplog.records if r.name == server_module.__name__]
        assert "hunter2" not in str(vars(record))
        assert "KeyError" in str(vars(record))


class TestSizes:
    async def test_the_largest_answer_arrives(self, client: TtrpcClient) -> None:
        size = limits.TTRPC_MAX_BODY - 5  # tag and length of the payload field
        assert len(await client.call("t.Bench", "Big", b"%d" % size, soon())) == size

    async def test_a_larger_answer_is_an_error_of_its_own(self, client: TtrpcClient) -> None:
        with pytest.raises(StatusError) as caught:
            await client.call("t.Bench", "Big", b"%d" % limits.TTRPC_MAX_BODY, soon())
        assert caught.value.code == 8
        assert await client.call("t.Bench", "Echo", b"on", soon()) == b"on"

    async def test_a_larger_request_is_not_sent(self, client: TtrpcClient) -> None:
        with pytest.raises(AgentError) as caught:
            await client.call("t.Bench", "Echo", bytes(limits.TTRPC_MAX_BODY), soon())
        assert caught.value.code is ErrorCode.PAYLOAD_TOO_LARGE
        assert await client.call("t.Bench", "Echo", b"on", soon()) == b"on"

    @pytest.mark.parametrize("budget", [Budget(3 * limits.MIB, 0)])
    async def test_answers_that_nobody_reads_are_bounded(self, mini: MiniClient, bench: Bench) -> None:
        size = b"%d" % (limits.MIB - 100)
        flood = b"".join(frame(2 * i + 1, request("t.Bench", "Big", size)) for i in range(40))
        # In one piece, so that all are read before the first answer fills the buffer.
        await aside(lambda: mini.socket.sendall(flood))
        await until(lambda: bench.started == 40)
        codes = [(await aside(mini.receive))[1] for _ in range(40)]
        # One is in the transport's buffer, two wait for their turn.
        assert sorted(codes) == [0] * 3 + [8] * 37

    async def test_who_does_not_read_is_not_read_from(self, mini: MiniClient, path: Path) -> None:
        mini.socket.settimeout(0.3)

        def flood() -> int:
            sent = 0
            try:
                while sent < 200:
                    mini.send(2 * sent + 1, request("t.Bench", "Echo", bytes(limits.MIB)))
                    sent += 1
            except TimeoutError:
                return sent
            return sent

        assert await aside(flood) < 200
        other = TtrpcClient(f"unix://{path}")
        assert await other.call("t.Bench", "Echo", b"served", soon()) == b"served"
        await other.close()


class TestTime:
    async def test_the_server_cancels_what_takes_longer_than_the_caller_waits(
        self, mini: MiniClient, bench: Bench
    ) -> None:
        await aside(lambda: mini.send(1, request("t.Bench", "Wait", b"x", nano=20_000_000)))
        assert (await aside(mini.receive))[:2] == (1, 4)
        assert bench.cancelled == 1

    async def test_the_client_keeps_its_deadline_and_ignores_the_late_answer(
        self, client: TtrpcClient, bench: Bench
    ) -> None:
        with pytest.raises(AgentError) as caught:
            await client.call("t.Bench", "Wait", b"late", Deadline.after(SystemClock(), 0.05))
        assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
        bench.gates[b"late"].set()
        assert await client.call("t.Bench", "Echo", b"next", soon()) == b"next"

    async def test_the_deadline_travels(self, client: TtrpcClient, bench: Bench) -> None:
        await client.call("t.Bench", "Echo", b"", Deadline.after(SystemClock(), 7))
        await client.call("t.Bench", "Echo", b"", Deadline.never(SystemClock()))
        first, second = bench.contexts
        assert first.timeout == pytest.approx(7, abs=1)
        assert second.timeout is None


class TestConnections:
    async def test_a_caller_that_hangs_up_cancels_its_work(self, mini: MiniClient, bench: Bench) -> None:
        await aside(lambda: mini.send(1, request("t.Bench", "Wait", b"x")))
        await until(lambda: bench.started == 1)
        mini.close()
        await until(lambda: bench.cancelled == 1)

    async def test_half_a_frame_and_silence_holds_up_nobody(
        self, mini: MiniClient, client: TtrpcClient
    ) -> None:
        mini.socket.sendall(b"\0\0\x10\0\0\0")
        assert await client.call("t.Bench", "Echo", b"x", soon()) == b"x"

    async def test_connections_are_counted(
        self, mini: MiniClient, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert (await aside(lambda: mini.ask(1, "t.Bench", "Echo", b"")))[1] == 0
        monkeypatch.setattr(limits, "TTRPC_MAX_CONNECTIONS", 1)
        second = MiniClient(path)
        with pytest.raises(OSError, match=r"closed|reset|Broken"):
            await aside(lambda: second.ask(1, "t.Bench", "Echo", b""))
        second.close()
        assert (await aside(lambda: mini.ask(3, "t.Bench", "Echo", b"")))[1] == 0

    async def test_nobody_listens(self, tmp_path: Path) -> None:
        client = TtrpcClient(f"unix://{tmp_path}/none")
        with pytest.raises(AgentError) as caught:
            await client.call("t.Bench", "Echo", b"", soon())
        assert caught.value.code is ErrorCode.ROLE_UNREACHABLE

    async def test_a_restarted_server_is_found_again(self, tmp_path: Path) -> None:
        bench, client = Bench(), TtrpcClient(f"unix://{tmp_path}/s")
        for _ in range(3):
            server = TtrpcServer({"t.Bench": {"Echo": bench.echo}})
            await server.start(listen_unix(f"unix://{tmp_path}/s"))
            assert await client.call("t.Bench", "Echo", b"x", soon()) == b"x"
            await server.stop()
        await client.close()


class Flaky:
    """Answers the first request, then hangs up upon each until told to behave."""

    def __init__(self) -> None:
        self.requests = 0
        self.hang_ups = 1

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                header = await reader.readexactly(10)
            except asyncio.IncompleteReadError:
                break
            await reader.readexactly(int.from_bytes(header[:4], "big"))
            self.requests += 1
            if 1 < self.requests <= 1 + self.hang_ups:
                break
            payload = text(2, b"%d" % self.requests)
            writer.write(len(payload).to_bytes(4, "big") + header[4:8] + b"\x02\0" + payload)
        writer.close()


class TestReconnect:
    @pytest.fixture
    async def flaky(self, tmp_path: Path) -> AsyncIterator[Flaky]:
        flaky = Flaky()
        server = await asyncio.start_unix_server(flaky.serve, tmp_path / "f")
        yield flaky
        server.close()

    @pytest.fixture
    async def client(self, flaky: Flaky, tmp_path: Path) -> AsyncIterator[TtrpcClient]:
        client = TtrpcClient(f"unix://{tmp_path}/f")
        assert await client.call("s", "m", b"", soon()) == b"1"
        yield client
        await client.close()

    async def test_a_kept_connection_that_closes_is_replaced_once(self, client: TtrpcClient) -> None:
        assert await client.call("s", "m", b"", soon()) == b"3"

    async def test_not_twice(self, client: TtrpcClient, flaky: Flaky) -> None:
        flaky.hang_ups = 2
        with pytest.raises(AgentError) as caught:
            await client.call("s", "m", b"", soon())
        assert caught.value.code is ErrorCode.ROLE_UNREACHABLE
        assert flaky.requests == 3

    async def test_what_must_not_happen_twice_is_not_sent_twice(
        self, client: TtrpcClient, flaky: Flaky
    ) -> None:
        with pytest.raises(AgentError) as caught:
            await client.call("s", "m", b"", soon(), repeatable=False)
        assert caught.value.code is ErrorCode.ROLE_UNREACHABLE
        assert flaky.requests == 2


class TestStop:
    async def test_calls_under_way_are_finished(self, tmp_path: Path) -> None:
        bench = Bench()
        server = TtrpcServer({"t.Bench": {"Wait": bench.wait}})
        await server.start(listen_unix(f"unix://{tmp_path}/s"))
        client = TtrpcClient(f"unix://{tmp_path}/s")
        call = asyncio.create_task(client.call("t.Bench", "Wait", b"x", soon()))
        await until(lambda: bench.started == 1)
        stop = asyncio.create_task(server.stop(10))
        bench.gates[b"x"].set()
        assert await call == b"x"
        await asyncio.wait_for(stop, 5)
        await client.close()

    async def test_calls_that_do_not_end_are_cut(self, tmp_path: Path) -> None:
        bench = Bench()
        server = TtrpcServer({"t.Bench": {"Wait": bench.wait}})
        await server.start(listen_unix(f"unix://{tmp_path}/s"))
        client = TtrpcClient(f"unix://{tmp_path}/s")
        call = asyncio.create_task(client.call("t.Bench", "Wait", b"x", soon()))
        await until(lambda: bench.started == 1)
        await server.stop(0.01)
        with pytest.raises(AgentError) as caught:
            await call
        assert caught.value.code is ErrorCode.ROLE_UNREACHABLE
        await until(lambda: bench.cancelled == 1)
        await client.close()

    async def test_stop_without_start_and_stop_twice(self, tmp_path: Path) -> None:
        server = TtrpcServer({})
        await server.stop()
        await server.start(listen_unix(f"unix://{tmp_path}/s"))
        await server.stop()
        await server.stop()


@pytest.fixture
async def role() -> Role:
    return Role()


@pytest.fixture
async def address(role: Role, tmp_path: Path) -> AsyncIterator[str]:
    front = front_of(role)
    server = TtrpcServer({**cdh_services(front), **aa_services(front)})
    listener = listen_unix(f"unix://{tmp_path}/role")
    await server.start(listener)
    yield f"unix://{tmp_path}/role"
    listener.unlink()
    await server.stop(0)
    assert not (tmp_path / "role").exists()


class TestRemote:
    async def test_the_hub(self, address: str, role: Role) -> None:
        hub = RemoteHub(address)
        assert (await hub.get_resource("kbs:///a/b/c", soon())).secret.reveal() == b"plaintext"
        assert (await hub.unseal(b"sealed", soon())).reveal() == b"plaintext"
        assert (await hub.unwrap_key(b"{}", soon())).reveal() == b"plaintext"
        await hub.close()

    async def test_the_attester(self, address: str, role: Role) -> None:
        attester = RemoteAttester(address)
        assert await attester.evidence(b"x", soon()) == b"plaintext"
        assert await attester.additional_evidence(b"x", soon()) == b"plaintext"
        assert (await attester.token("kbs", soon())).reveal() == b"plaintext"
        assert await attester.tee_type(soon()) == "sample"
        assert await attester.additional_tees(soon()) == ("sampledevice",)
        assert await attester.extend("d", "o", "c", 0, soon()) is MeasurementResult.NOT_ENABLED
        await attester.bind_init_data(b"digest", soon())
        await attester.extend("d", "o", "c", None, soon(), once=True)
        assert ("extend", "d", "o", "c", 0) in role.asked
        assert ("extend", "d", "o", "c", None, "once") in role.asked
        await attester.close()

    async def test_an_error_keeps_its_code_and_loses_its_detail(self, address: str, role: Role) -> None:
        role.error = AgentError(ErrorCode.KBS_DNS_FAILED, "operator detail")
        hub = RemoteHub(address)
        with pytest.raises(AgentError) as caught:
            await hub.get_resource("kbs:///a/b/c", soon())
        assert caught.value.code is ErrorCode.KBS_DNS_FAILED
        assert "operator detail" not in caught.value.detail
        await hub.close()

    async def test_a_caller_that_gives_up_cancels_the_work_there(self, address: str, role: Role) -> None:
        role.gate.clear()
        hub = RemoteHub(address)
        with pytest.raises(AgentError) as caught:
            await hub.get_resource("kbs:///a/b/c", Deadline.after(SystemClock(), 0.05))
        assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
        await until(lambda: role.cancelled == 1)
        await hub.close()

    async def test_a_timeout_at_the_server_says_what_took_long(self, address: str, role: Role) -> None:
        role.gate.clear()
        mini = MiniClient(Path(address.removeprefix("unix://")))
        await aside(
            lambda: mini.send(1, request(RESOURCE, "GetResource", text(1, b"kbs:///a/b/c"), 20_000_000))
        )
        stream, code, message, _ = await aside(mini.receive)
        assert (stream, code) == (1, 4)
        assert re.search(r"^\[CDH\] \[ERROR\]: Get Resource failed: .*\(DEADLINE_EXCEEDED, request ", message)
        mini.close()


def token_answer(clock: FakeClock, name: str, life: int = 300) -> bytes:
    now = int(clock.wall())
    claims = msgspec.json.encode({"iat": now, "exp": now + life, "sub": name})
    jwt = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (b"{}", claims, b"sig"))
    key = TeeKey.generate(KeyAlgorithm.EC_P256)
    return encode_token(held_token(Secret(jwt), key, clock)).reveal()


class TestRemoteTokens:
    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    async def tokens(self, address: str, role: Role, clock: FakeClock) -> AsyncIterator[RemoteTokens]:
        role.answer = token_answer(clock, "first")
        tokens = RemoteTokens(address, clock)
        yield tokens
        await tokens.close()

    async def test_a_token_is_kept_until_shortly_before_it_expires(
        self, tokens: RemoteTokens, role: Role, clock: FakeClock
    ) -> None:
        first = await tokens.token(soon())
        clock.advance(300 - limits.TOKEN_MARGIN - 1)
        assert await tokens.token(soon()) is first
        assert role.asked == [("token", "kbs")]
        role.answer = token_answer(clock, "second")
        clock.advance(2)
        assert (await tokens.token(soon())).jwt != first.jwt
        assert len(role.asked) == 2

    async def test_many_callers_ask_once(self, tokens: RemoteTokens, role: Role) -> None:
        role.gate.clear()
        callers = [asyncio.create_task(tokens.token(soon())) for _ in range(20)]
        await until(lambda: bool(role.asked))
        role.gate.set()
        assert len({(await caller).jwt.reveal() for caller in callers}) == 1
        assert len(role.asked) == 1

    async def test_who_has_more_time_than_the_first_caller_asks_again(
        self, tokens: RemoteTokens, role: Role
    ) -> None:
        role.gate.clear()
        hurried = asyncio.create_task(tokens.token(soon(0.3)))
        await until(lambda: bool(role.asked))
        patient = asyncio.create_task(tokens.token(soon(30)))
        with pytest.raises(AgentError) as caught:
            await hurried
        assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
        role.gate.set()
        assert (await patient).jwt
        assert len(role.asked) == 2

    async def test_a_refused_token_is_replaced(
        self, tokens: RemoteTokens, role: Role, clock: FakeClock
    ) -> None:
        first = await tokens.token(soon())
        role.answer = token_answer(clock, "second")
        second = await tokens.token(soon(), refused=first)
        assert second.jwt != first.jwt
        assert await tokens.token(soon(), refused=first) is second

    async def test_a_refused_token_is_never_handed_out_again(
        self, tokens: RemoteTokens, role: Role, clock: FakeClock
    ) -> None:
        first = await tokens.token(soon())
        for refused in (first, None):
            with pytest.raises(AgentError) as caught:
                await tokens.token(soon(), refused=refused)
            assert caught.value.code is ErrorCode.TOKEN_REJECTED
        role.answer = token_answer(clock, "second")
        assert (await tokens.token(soon())).jwt != first.jwt

    async def test_an_answer_that_is_no_token(self, tokens: RemoteTokens, role: Role) -> None:
        role.answer = b"{}"
        with pytest.raises(AgentError) as caught:
            await tokens.token(soon())
        assert caught.value.code is ErrorCode.KBS_BAD_RESPONSE
