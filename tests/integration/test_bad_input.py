"""Malformed, oversized and truncated input at every edge: a typed error, and the daemon keeps serving."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.devkit.kbs import Fault
from agent.errors import AgentError, ErrorCode
from agent.serve.ttrpc.remote import RemoteAttester, RemoteHub
from tests.integration.support import http, soon

if TYPE_CHECKING:
    from agent.devkit.playground import Playground

pytestmark = pytest.mark.integration

JSON = {"Accept": "application/json"}


async def still_serves(place: Playground) -> None:
    place.kbs.put("default/key/1", b"value")
    assert (await http(f"{place.rest}/cdh/resource/default/key/1")).body == b"value"
    hub = RemoteHub(place.hub_socket)
    try:
        assert (await hub.get_resource("kbs:///default/key/1", soon())).secret.reveal() == b"value"
    finally:
        await hub.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00" * 64,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /cdh/resource/a/b/c HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"POST /aa/aael HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999999999\r\n\r\n",
        b"POST /aa/aael HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
        b"GET /cdh/resource/../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET /cdh/resource/%2e%2e/%2e%2e/x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    ],
    ids=range(10),
)
async def test_rest_survives_raw_bytes(place: Playground, raw: bytes) -> None:
    port = int(place.rest.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    writer.write_eof()
    try:
        answer = await asyncio.wait_for(reader.read(65536), 20)
    except ConnectionError:
        answer = b""
    writer.close()
    assert not answer or answer.split(b" ")[1][:1] == b"4"
    await still_serves(place)


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff" * 4096,
        struct.pack(">IIBB", 4 * 1024 * 1024 + 1, 1, 1, 0),
        struct.pack(">IIBB", 0xFFFFFFFF, 1, 1, 0) + b"x" * 100_000,
        struct.pack(">IIBB", 10, 1, 1, 0) + b"\xff" * 10,
        struct.pack(">IIBB", 10, 2, 1, 0) + b"\x00" * 10,
        struct.pack(">IIBB", 100, 1, 1, 0) + b"short",
        struct.pack(">IIBB", 0, 0, 9, 255),
        os.urandom(10_000),
    ],
    ids=range(8),
)
async def test_ttrpc_survives_raw_bytes(place: Playground, raw: bytes) -> None:
    for address in (place.hub_socket, place.attester_socket):
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix://"))
        writer.write(raw)
        writer.write_eof()
        await asyncio.wait_for(reader.read(65536), 20)
        writer.close()
    await still_serves(place)


@pytest.mark.parametrize(
    ("sealed", "code"),
    [
        (b"", ErrorCode.SEALED_MALFORMED),
        (b"sealed.", ErrorCode.SEALED_MALFORMED),
        (b"sealed.a.b.c", ErrorCode.SEALED_MALFORMED),
        (b"\xff\xfe", ErrorCode.SEALED_MALFORMED),
        (b"sealed." + b"A" * 300_000, ErrorCode.PAYLOAD_TOO_LARGE),
    ],
    ids=range(5),
)
async def test_sealed_secrets_are_judged_with_a_type(
    place: Playground, sealed: bytes, code: ErrorCode
) -> None:
    hub = RemoteHub(place.hub_socket)
    try:
        with pytest.raises(AgentError) as refused:
            await hub.unseal(sealed, soon())
        assert refused.value.code is code
    finally:
        await hub.close()
    await still_serves(place)


async def test_runtime_data_has_a_bound(place: Playground) -> None:
    attester = RemoteAttester(place.attester_socket)
    try:
        with pytest.raises(AgentError) as refused:
            await attester.evidence(b"x" * 100_000, soon())
        assert refused.value.code is ErrorCode.PAYLOAD_TOO_LARGE
    finally:
        await attester.close()


@pytest.mark.parametrize(
    ("endpoint", "kind", "codes"),
    [
        ("auth", "garbage", {"KBS_BAD_RESPONSE"}),
        ("attest", "garbage", {"KBS_BAD_RESPONSE"}),
        ("resource", "garbage", {"JWE_INVALID"}),
        ("auth", "reset", {"KBS_UNREACHABLE"}),
        ("attest", "reset", {"KBS_UNREACHABLE"}),
        ("resource", "reset", {"KBS_UNREACHABLE"}),
        ("auth", "oversized", {"KBS_RESPONSE_TOO_LARGE"}),
        ("attest", "oversized", {"KBS_RESPONSE_TOO_LARGE"}),
        ("resource", "oversized", {"KBS_RESPONSE_TOO_LARGE"}),
        ("auth", "version_mismatch", {"PROTOCOL_MISMATCH"}),
    ],
)
async def test_a_misbehaving_broker_is_named_and_survived(
    place: Playground, endpoint: str, kind: str, codes: set[str]
) -> None:
    place.kbs.put("default/key/1", b"value")
    place.kbs.faults.on(endpoint, Fault(kind))
    answer = await http(f"{place.rest}/cdh/resource/default/key/1", headers={**JSON, "Prefer": "wait=2"})
    assert answer.json()["code"] in codes
    place.kbs.faults.clear()
    await still_serves(place)


async def test_memory_stays_bounded_under_oversized_input(place: Playground) -> None:
    """Half a gigabyte of input that must be refused; what is kept of it stays small."""
    before = rss()
    port = int(place.rest.rpartition(":")[2])
    for _ in range(4):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(place.hub_socket.removeprefix("unix://"))
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(client, struct.pack(">IIBB", 64 * 1024 * 1024, 1, 1, 0))
            for _ in range(64):
                await loop.sock_sendall(client, b"\0" * 1024 * 1024)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /aa/aael HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 67108864\r\n\r\n")
        writer.close()
    await still_serves(place)
    assert rss() - before < 64 * 1024 * 1024


def rss() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024
