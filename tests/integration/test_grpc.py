"""gRPC: the guest's key provider, its addresses, and what must not get through."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from agent.config import limits
from agent.devkit.kbs import Fault
from agent.devkit.kbs.faults import Kind
from agent.devkit.playground import playground
from agent.errors import AgentError, ErrorCode
from agent.protos import attestation_agent_pb2 as aa
from agent.protos import confidential_data_hub_pb2 as cdh
from agent.protos import keyprovider_pb2 as kp
from agent.serve.grpc.server import GrpcServer
from tests.integration.support import program
from tests.integration.test_programs import free_port, until_listening, write
from tests.unit.hub.test_image_keys import KEK, PRIVATE, REQUEST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agent.devkit.playground import Playground
    from agent.serve.ttrpc.server import Context

pytestmark = pytest.mark.integration

# Without type stubs; what it hands out is taken as it comes.
grpc: Any = import_module("grpc")
import_module("grpc.aio")

KID = "default/image-kek/1"
KEYS = "/keyprovider.KeyProviderService"


class Client:
    def __init__(self, channel: Any) -> None:
        self._channel = channel

    async def call(self, path: str, request: bytes, **options: Any) -> bytes:
        answer: bytes = await self._channel.unary_unary(path)(request, **{"timeout": 30, **options})
        return answer

    async def unwrap(self, protocol_input: bytes = REQUEST, **options: Any) -> bytes:
        request = kp.KeyProviderKeyWrapProtocolInput(KeyProviderKeyWrapProtocolInput=protocol_input)
        answer = await self.call(f"{KEYS}/UnWrapKey", request.SerializeToString(), **options)
        return kp.KeyProviderKeyWrapProtocolOutput.FromString(answer).KeyProviderKeyWrapProtocolOutput

    async def refused(self, path: str, request: bytes, **options: Any) -> tuple[str, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(path, request, **options)
        return caught.value.code().name, caught.value.details()

    async def unwrap_refused(self, protocol_input: bytes = REQUEST, **options: Any) -> tuple[str, str]:
        request = kp.KeyProviderKeyWrapProtocolInput(KeyProviderKeyWrapProtocolInput=protocol_input)
        return await self.refused(f"{KEYS}/UnWrapKey", request.SerializeToString(), **options)


@asynccontextmanager
async def client(address: str, **options: Any) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(address, **options) as channel:
        yield Client(channel)


@pytest.fixture
async def place() -> AsyncIterator[Playground]:
    async with playground(grpc="127.0.0.1:0") as running:
        running.kbs.put(KID, KEK)
        yield running


@pytest.fixture
async def asked(place: Playground) -> AsyncIterator[Client]:
    async with client(place.daemon.grpc_address) as found:
        yield found


# --- the key provider ------------------------------------------------------------------------------
async def test_the_answer_is_byte_exact(asked: Client, place: Playground) -> None:
    answer = await asked.unwrap()
    assert answer == b'{"keyunwrapresults":{"optsdata":[' + ",".join(map(str, PRIVATE)).encode() + b"]}}"
    assert place.kbs.counters["attest"] == 1


async def test_many_at_once_cost_one_attestation(asked: Client, place: Playground) -> None:
    answers = await asyncio.gather(*(asked.unwrap() for _ in range(100)))
    assert len(set(answers)) == 1
    assert place.kbs.counters["attest"] == 1


async def test_refusals_have_upstreams_words_and_our_code(asked: Client, place: Playground) -> None:
    code, text = await asked.unwrap_refused(b'{"op":"keyunwrap","keywrapparams":{}}')
    assert code == "INVALID_ARGUMENT"
    assert text.startswith("[ERROR] CDH Unwrap Key failed: ")
    assert "(IMAGE_KEY_MALFORMED, request " in text
    place.kbs.deny(KID)
    code, text = await asked.unwrap_refused()
    assert code == "PERMISSION_DENIED"
    assert text.startswith("[CDH] [ERROR]: Decrypt Image (UnwrapKey) failed: ")
    assert "(RESOURCE_DENIED, request " in text
    assert KID not in text
    assert await asked.refused(f"{KEYS}/WrapKey", b"") == ("UNIMPLEMENTED", "WrapKey not implemented.")


async def test_a_broker_that_is_away_is_unavailable_within_the_callers_time(
    asked: Client, place: Playground
) -> None:
    await place.kbs.stop()
    code, text = await asked.unwrap_refused(timeout=3)
    # Whose clock is faster, the client's or ours, is open: both are a typed end in time.
    assert code in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert code != "UNAVAILABLE" or "KBS_UNREACHABLE" in text


async def test_a_caller_that_leaves_takes_its_work_with_it(
    asked: Client, place: Playground, caplog: pytest.LogCaptureFixture
) -> None:
    arrived, gate = asyncio.Event(), asyncio.Event()
    place.kbs.faults.on("resource", Fault(Kind.HOLD, gate=gate, arrived=arrived))
    with caplog.at_level("INFO", logger="coco.audit"):
        waiting = asyncio.ensure_future(asked.unwrap())
        await arrived.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        for _ in range(500):
            if caplog.records:
                break
            await asyncio.sleep(0.01)
    gate.set()
    assert [vars(record)["result"] for record in caplog.records] == ["CANCELLED"]


async def test_requests_are_audited_with_api_and_peer(
    asked: Client, place: Playground, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="coco.audit"):
        await asked.unwrap()
    (line,) = [vars(record) for record in caplog.records if record.name == "coco.audit"]
    assert (line["api"], line["verb"], line["result"]) == ("grpc", "unwrap_key", "ok")
    assert line["peer"].startswith("ipv4:127.0.0.1:")


# --- limits ----------------------------------------------------------------------------------------
async def test_sizes_are_bounded_as_over_ttrpc(asked: Client) -> None:
    code, text = await asked.unwrap_refused(b" " * (limits.KEY_PROVIDER_MAX + 1))
    assert (code, "PAYLOAD_TOO_LARGE" in text) == ("INVALID_ARGUMENT", True)
    code, _ = await asked.unwrap_refused(b" " * (limits.TTRPC_MAX_BODY + 1))
    assert code == "RESOURCE_EXHAUSTED"
    assert await asked.unwrap()


async def test_compressed_requests_are_refused_unread(place: Playground) -> None:
    async with client(place.daemon.grpc_address, compression=grpc.Compression.Gzip) as asked:
        code, text = await asked.unwrap_refused(b" " * 200_000)
    assert (code, "IMAGE_KEY" in text) == ("UNIMPLEMENTED", False)


async def test_connections_are_bounded_and_room_comes_back(place: Playground) -> None:
    host, _, port = place.daemon.grpc_address.rpartition(":")
    more = 40
    made = [
        await asyncio.open_connection(host, int(port)) for _ in range(limits.TTRPC_MAX_CONNECTIONS + more)
    ]

    async def turned_away(reader: asyncio.StreamReader) -> bool:
        try:
            return await reader.read(1) == b""  # the others get the settings of HTTP/2
        except ConnectionError:
            return True

    try:
        seen = await asyncio.gather(*(turned_away(reader) for reader, _ in made))
        assert seen.count(True) >= more
    finally:
        for _, writer in made:
            writer.close()
    async with client(place.daemon.grpc_address) as later:
        assert (
            PRIVATE.decode()
            in bytes(
                json.loads(await later.unwrap(wait_for_ready=True))["keyunwrapresults"]["optsdata"]
            ).decode()
        )


async def test_bytes_that_are_no_grpc_leave_it_serving(asked: Client, place: Playground) -> None:
    host, _, port = place.daemon.grpc_address.rpartition(":")
    for raw in (
        b"GET / HTTP/1.1\r\n\r\n",
        os.urandom(512),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
    ):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(raw)
        writer.write_eof()
        with suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert (await asked.refused(f"{KEYS}/UnWrapKey", b"\xff\xff"))[0] == "INVALID_ARGUMENT"
    assert await asked.unwrap()


async def test_a_port_offers_the_key_provider_and_nothing_else(asked: Client, place: Playground) -> None:
    place.kbs.put("default/key/1", b"value")
    request = cdh.GetResourceRequest(ResourcePath="kbs:///default/key/1").SerializeToString()
    for path in (
        "/api.GetResourceService/GetResource",
        "/api.SealedSecretService/UnsealSecret",
        "/attestation_agent.AttestationAgentService/GetToken",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        f"{KEYS}/Other",
    ):
        assert (await asked.refused(path, request))[0] == "UNIMPLEMENTED"


# --- addresses -------------------------------------------------------------------------------------
async def test_a_unix_socket_offers_what_the_ttrpc_sockets_do(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "hub.sock"
    async with playground(grpc=f"unix://{file}") as place:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert [entry.name for entry in file.parent.iterdir()] == ["hub.sock"]
        place.kbs.put(KID, KEK)
        place.kbs.put("default/key/1", b"value")
        async with client(f"unix:{file}") as asked:
            assert await asked.unwrap()
            request = cdh.GetResourceRequest(ResourcePath="kbs:///default/key/1").SerializeToString()
            answer = await asked.call("/api.GetResourceService/GetResource", request)
            assert cdh.GetResourceResponse.FromString(answer).Resource == b"value"
            path = "/attestation_agent.AttestationAgentService/GetTeeType"
            assert aa.GetTeeTypeResponse.FromString(await asked.call(path, b"")).tee == "sample"
    assert not file.exists()


async def echo(payload: bytes, context: Context) -> bytes:
    return payload + (b"" if context.timeout is None else b" in time")


async def broken(payload: bytes, context: Context) -> bytes:
    raise ValueError("secret value")


SERVICES = {"test.Test": {"Echo": echo, "Broken": broken}}


async def test_names_are_taken_over_and_left_to_a_successor(tmp_path: Path) -> None:
    file, planted = tmp_path / "s.sock", tmp_path / "planted"
    planted.write_text("not ours")
    file.symlink_to(planted)
    first, second = GrpcServer(SERVICES), GrpcServer(SERVICES)
    await first.start(f"unix://{file}")
    assert planted.read_text() == "not ours"
    assert stat.S_ISSOCK(file.lstat().st_mode)
    await second.start(f"unix://{file}")
    await first.stop()
    async with client(f"unix:{file}") as asked:
        assert await asked.call("/test.Test/Echo", b"hello") == b"hello in time"
        assert await asked.call("/test.Test/Echo", b"hello", timeout=None) == b"hello"
    await second.stop()
    assert not file.exists()


async def test_long_and_abstract_names(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * (limits.SOCKET_PATH_MAX - len(os.fsencode(tmp_path)) - 4))
    for address in (f"unix://{folder}/s", f"unix://@coco-test-{os.getpid()}"):
        server = GrpcServer(SERVICES)
        assert await server.start(address) == address
        target = address.replace("unix://@", "unix-abstract:").replace("unix://", "unix:")
        async with client(target) as asked:
            assert await asked.call("/test.Test/Echo", b"hello") == b"hello in time"
        await server.stop()
        await server.stop()


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:0", "[::]:0", "192.0.2.1:50000", "localhost:0", "50000", "", "unix://relative", "unix://"],
)
async def test_addresses_that_others_could_reach_are_refused(address: str) -> None:
    with pytest.raises(AgentError) as refused:
        await GrpcServer(SERVICES).start(address)
    assert refused.value.code is ErrorCode.CONFIG_INVALID


async def test_a_port_in_use_is_refused_and_not_shared(tmp_path: Path) -> None:
    server = GrpcServer(SERVICES)
    address = await server.start("127.0.0.1:0")
    with pytest.raises(AgentError, match="in use"):
        await GrpcServer(SERVICES).start(address)
    (tmp_path / "file").touch()
    with pytest.raises(AgentError, match=r"(?i)directory|exists"):
        await GrpcServer(SERVICES).start(f"unix://{tmp_path}/file/s.sock")
    await server.stop()
    with socket.socket() as free, pytest.raises(ConnectionRefusedError):
        free.connect(("127.0.0.1", int(address.rpartition(":")[2])))


async def test_a_defect_is_answered_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    server = GrpcServer(SERVICES)
    async with client(await server.start("127.0.0.1:0")) as asked:
        code, text = await asked.refused("/test.Test/Broken", b"")
    await server.stop()
    assert (code, text) == ("INTERNAL", ErrorCode.INTERNAL.meaning.message)
    assert "secret value" not in caplog.text


# --- the extra, and the program --------------------------------------------------------------------
async def test_without_grpcio_the_reason_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(AgentError, match=r"\[grpc\]") as refused:
        await GrpcServer(SERVICES).start("127.0.0.1:0")
    assert refused.value.code is ErrorCode.CONFIG_INVALID


def test_the_daemon_loads_grpcio_only_when_it_is_configured() -> None:
    check = (
        "import sys, agent.daemon, agent.cli.keyprovider; print([m for m in sys.modules if m[:4] == 'grpc'])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_program_stops_cleanly_with_a_call_under_way(tmp_path: Path, number: int) -> None:
    async with playground() as place:
        port = free_port()
        url = place.kbs.url
        attester = write(tmp_path, "aa.toml", f'[token_configs.kbs]\nurl = "{url}"\n')
        hub = write(
            tmp_path,
            "cdh.toml",
            f'socket = "unix://{tmp_path}/cdh.sock"\n[kbc]\nname = "cc_kbc"\nurl = "{url}"\n',
        )
        ours = write(
            tmp_path,
            "agent.toml",
            f'[attester]\nallow_sample = true\n[control]\nsocket = ""\n[hub]\ngrpc = "127.0.0.1:{port}"\n',
        )
        words = ["--aa-config", attester, "--cdh-config", hub, "--agent-config", ours]
        words += ["--attestation-sock", f"unix://{tmp_path}/aa.sock", "--bind", f"127.0.0.1:{free_port()}"]
        place.kbs.put(KID, KEK)
        async with program(tmp_path, "coco-agent", "serve", *words) as running:
            await until_listening(port)
            async with client(f"127.0.0.1:{port}") as asked:
                assert await asked.unwrap()
                arrived = asyncio.Event()
                gate = asyncio.Event()
                place.kbs.faults.on("resource", Fault(Kind.HOLD, gate=gate, arrived=arrived))
                waiting = asyncio.ensure_future(asked.unwrap())
                await arrived.wait()
                running.process.send_signal(number)
                gate.set()
                assert await waiting
            assert await asyncio.wait_for(running.process.wait(), 10) == 0
        assert "Traceback" not in running.logged()
        assert all(line.startswith("{") for line in running.logged().splitlines())
