"""The REST role on real sockets: raw bytes, curl, disconnects, stopping."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from agent.config import limits
from agent.config.model import Features, Gateway
from agent.errors import AgentError, ErrorCode
from agent.serve.rest import listen
from agent.serve.rest.address import bind_tcp
from agent.serve.rest.listen import serve
from agent.serve.sockets import listen_unix
from tests.unit.serve.rest import parts
from tests.unit.serve.rest.parts import KEY, Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.integration

HOST = b"Host: 127.0.0.1:8006\r\n"
RESOURCE = b"/cdh/resource/default/key/1"


@asynccontextmanager
async def serving(
    settings: Gateway | None = None, bind: str = "127.0.0.1:0"
) -> AsyncIterator[tuple[Gate, int]]:
    gate = Gate(settings)
    listeners = bind_tcp(bind)
    running = [await serve(gate.app, listener) for listener in listeners]
    try:
        yield gate, listeners[0].getsockname()[1]
    finally:
        for one in running:
            await one.cleanup()


async def exchange(port: int, raw: bytes, host: str = "127.0.0.1") -> bytes:
    """Send bytes, and read until the other end closes."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(raw)
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


def get(target: bytes, *more: bytes, method: bytes = b"GET", close: bool = True) -> bytes:
    lines = [HOST, *(line + b"\r\n" for line in more)]
    if close:
        lines.append(b"Connection: close\r\n")
    return method + b" " + target + b" HTTP/1.1\r\n" + b"".join(lines) + b"\r\n"


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


async def test_a_resource_arrives_byte_for_byte_with_its_headers() -> None:
    async with serving() as (_, port):
        answer = await exchange(port, get(RESOURCE))
    head, _, content = answer.partition(b"\r\n\r\n")
    assert content == KEY
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK"
    for line in (
        b"Content-Type: application/octet-stream",
        b"Cache-Control: no-store",
        b"X-Content-Type-Options: nosniff",
        b"Server: coco-agent",
    ):
        assert line in lines


async def test_a_large_resource_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    large = bytes(range(256)) * 32 * 1024
    monkeypatch.setattr(parts, "KEY", large)
    async with serving() as (_, port):
        assert body(await exchange(port, get(RESOURCE))) == large


@pytest.mark.parametrize(
    ("target", "uri"),
    [
        (b"/cdh/resource/a%2Fb/%2e%2e/%00", "kbs:///a%2Fb/%2e%2e/%00"),
        (b"/cdh/resource/a/../../b", "kbs:///a/../../b"),
        (b"/cdh/resource/./a//b/", "kbs:///./a//b/"),
        (b"/cdh/resource/a;b=c/%zz/d?x=%00", "kbs:///a;b=c/%zz/d"),
        (b"/cdh/resource/a/b/c%", "kbs:///a/b/c%"),
        (b"http://127.0.0.1:8006/cdh/resource/a%2Fb/%2e%2e/../%00", "kbs:///a%2Fb/%2e%2e/../%00"),
        (b"HTTP://LocalHost./cdh/resource/a/b/c?d=http://evil.com", "kbs:///a/b/c"),
        (b"http://[::1]:8006/cdh/resource/a;b=c/%zz//d/", "kbs:///a;b=c/%zz//d/"),
    ],
)
async def test_the_path_is_never_decoded_nor_normalised(target: bytes, uri: str) -> None:
    async with serving() as (gate, port):
        assert status(await exchange(port, get(target))) == 200
    assert gate.roles.asked == [("resource", uri)]


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (get(b"//cdh/resource/a/b/c"), 404),
        (get(b"http://127.0.0.1:8006/nothing/else"), 404),
        (get(b"http://evil.com/cdh/resource/a/b/c"), 403),
        (get(b"http://evil@127.0.0.1/cdh/resource/a/b/c"), 403),
        (get(b"http://127.0.0.1:8006@evil.com/cdh/resource/a/b/c"), 403),
        (get(b"https://127.0.0.1:8006/cdh/resource/a/b/c"), 400),
        (get(b"http://127.0.0.1/cdh/resource/a/b/c#d"), 400),
        (b"GET http://127.0.0.1/info HTTP/1.1\r\nHost: evil.com\r\n\r\n", 403),
        (b"GET http://127.0.0.1/info HTTP/1.1\r\n\r\n", 400),
        (b"GET http://127.0.0.1/info HTTP/1.0\r\n\r\n", 400),
        (get(b"*", method=b"OPTIONS"), 400),
        (get(b"127.0.0.1:22", method=b"CONNECT"), 400),
        (get(b"/cdh/resource/a/b/c#d"), 400),
        (get(b"/cdh/resource/a\x00/b/c"), 400),
        (get(b"/cdh/resource/a\x01/b/c"), 400),
        (get(b"/cdh/resource/\xff\xfe/b/c"), 400),
        (get(b"/cdh/resource/\xc3\xa9/b/c"), 400),
        (get(b"/cdh/resource/a b/c"), 400),
        (get(b"cdh/resource/a/b/c"), 400),
        (b"GET /info HTTP/1.1\r\n\r\n", 400),
        (b"GET /info HTTP/1.1\r\nHost: evil.com\r\nConnection: close\r\n\r\n", 403),
        (b"GET /info HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
        (b"GET /info HTTP/1.0\r\n\r\n", 400),
        (b"GET /info HTTP/1.0\r\n" + HOST + b"\r\n", 200),
        (b"GET /info HTTP/1.0\r\nHost: evil.com\r\n\r\n", 403),
        (b"GET /info\r\n\r\n", 400),
        (b"GET /info HTTP/2.0\r\n" + HOST + b"\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n", 400),
        (get(b"/info", b"X-Forwarded-For: 127.0.0.1"), 403),
        (get(b"/info", b"CF-Connecting-IP: 127.0.0.1"), 403),
        (get(b"/info", b"Origin: https://evil.com"), 403),
        (get(b"/info", b"X: a\x00b"), 400),
        (get(b"/info", b"X : y"), 400),
        (get(b"/info", b"X: " + b"y" * 9000), 413),
        (get(b"/info", *(b"X%d: y" % n for n in range(200))), 400),
        (get(b"/" + b"a" * limits.REST_MAX_TARGET), 413),
        (get(b"/" + b"a" * (limits.REST_MAX_TARGET - 1)), 404),
        (get(b"/info", b"Content-Length: 1", b"Content-Length: 2"), 400),
        (get(b"/info", b"Content-Length: 3", b"Content-Length: 3"), 400),
        (get(b"/aa/aael", b"Content-Length: 3", b"Transfer-Encoding: chunked", method=b"POST"), 400),
        (get(b"/aa/aael", b"Content-Length: -1", method=b"POST"), 400),
        (get(b"/aa/aael", b"Content-Length: 99999999999999999999999", method=b"POST"), 400),
        (get(b"/aa/aael", b"Content-Length: 70000", method=b"POST"), 413),
        (get(b"/aa/aael", b"Transfer-Encoding: chunked", method=b"POST") + b"zz\r\n\r\n", 400),
        (
            get(b"/aa/aael", b"Transfer-Encoding: chunked", method=b"POST")
            + (b"1000\r\n" + b" " * 0x1000 + b"\r\n") * 20
            + b"0\r\n\r\n",
            413,
        ),
        (get(RESOURCE, method=b"OPTIONS"), 405),
        (get(RESOURCE, method=b"POST"), 405),
    ],
)
async def test_raw_requests_get_their_status_and_never_their_input_back(
    raw: bytes, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="agent")
    caplog.set_level(logging.DEBUG, logger="aiohttp")
    async with serving() as (gate, port):
        answer = await exchange(port, raw)
        assert status(answer) == code
        assert b"\r\nX-Request-Id: " in answer
        assert b"evil" not in answer
        assert b"aaaaaa" not in answer
        assert gate.roles.asked in ([], [("tee_type",), ("additional_tees",)])
        assert status(await exchange(port, get(b"/info"))) == 200
    assert "evil" not in caplog.text
    assert "Traceback" not in caplog.text


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving() as (gate, port):
        many = b"".join(get(b"/cdh/resource/a/b/%d" % n, close=False) for n in range(50))
        answer = await exchange(port, many + get(b"/nothing"))
    assert answer.count(b"HTTP/1.1 200 OK") == 50
    assert answer.endswith(b"URL NOT FOUND")
    assert gate.roles.asked == [("resource", f"kbs:///a/b/{n}") for n in range(50)]


async def test_nothing_is_taken_from_a_connection_after_a_refused_request() -> None:
    smuggled = get(RESOURCE, close=False)
    first = get(b"/info", b"Content-Length: 1", b"Content-Length: 2", close=False)
    forwarded = get(b"/info", b"Via: 1.1 proxy", close=False)
    async with serving() as (gate, port):
        for head in (first, forwarded):
            answer = await exchange(port, head + smuggled)
            assert answer.count(b"X-Request-Id: ") == 1
    assert gate.roles.asked == []


async def test_a_body_on_a_get_is_not_the_next_request() -> None:
    inner = get(RESOURCE, close=False)
    outer = get(b"/healthz", b"Content-Length: %d" % len(inner), close=False) + inner
    async with serving() as (gate, port):
        answer = await exchange(port, outer + get(b"/healthz"))
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert gate.roles.asked == []


async def test_connections_are_kept_between_requests() -> None:
    async with serving() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(get(RESOURCE, close=False))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(len(KEY)) == KEY
        writer.close()


async def test_head_has_the_length_but_no_body() -> None:
    async with serving() as (_, port):
        answer = await exchange(port, get(RESOURCE, method=b"HEAD"))
        missing = await exchange(port, get(b"/cdh/nothing/x", method=b"HEAD"))
    assert (status(answer), body(answer)) == (200, b"")
    assert b"Content-Length: %d\r\n" % len(KEY) in answer
    assert (status(missing), body(missing)) == (404, b"")


async def test_an_event_in_chunks_with_expect_continue() -> None:
    event = b'{"domain":"d","operation":"o","content":"c"}'
    async with serving() as (gate, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = get(b"/aa/aael", b"Transfer-Encoding: chunked", b"Expect: 100-continue", method=b"POST")
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        for byte in event:
            writer.write(b"1\r\n%c\r\n" % byte)
        writer.write(b"0\r\n\r\n")
        answer = await reader.read()
        writer.close()
    assert (status(answer), body(answer)) == (200, b'{"success":"true"}')
    assert gate.roles.asked == [("extend", "d", "o", "c", None)]


async def test_a_body_that_never_arrives_ends_with_the_deadline() -> None:
    async with serving(Gateway(features=Features.ALL, deadline=0.05)) as (_, port):
        answer = await exchange(port, get(b"/aa/aael", b"Content-Length: 10", method=b"POST") + b"{")
    assert status(answer) == 504


async def test_a_client_that_goes_away_cancels_its_request() -> None:
    async with serving() as (gate, port):
        gate.roles.hold = asyncio.Event()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get(RESOURCE))
        async with asyncio.timeout(20):
            await gate.roles.entered.wait()
            writer.transport.abort()
            await gate.roles.cancelled.wait()


async def test_stopping_lets_a_request_finish() -> None:
    gate = Gate()
    gate.roles.hold = asyncio.Event()
    [listener] = bind_tcp("127.0.0.2:0")
    port = listener.getsockname()[1]
    running = await serve(gate.app, listener)
    asked = asyncio.create_task(exchange(port, get(RESOURCE, close=False), "127.0.0.2"))
    await gate.roles.entered.wait()
    stopping = asyncio.create_task(running.cleanup())
    await asyncio.sleep(0)
    gate.roles.hold.set()
    assert body(await asked) == KEY
    await stopping
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await asyncio.open_connection("127.0.0.2", port)


async def test_stopping_ends_within_its_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STOP_GRACE", 0.2)
    async with serving() as (gate, port):
        gate.roles.hold = asyncio.Event()
        asked = asyncio.create_task(exchange(port, get(RESOURCE)))
        await gate.roles.entered.wait()
        before = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - before < 2
    assert await asked == b""
    await gate.roles.cancelled.wait()


async def test_connections_above_the_limit_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "_most_connections", lambda: 1)
    async with serving() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get(RESOURCE, close=False))
        await reader.readuntil(b"\r\n\r\n")
        assert await exchange(port, b"") == b""
        writer.write(get(RESOURCE))
        assert (await reader.read()).endswith(KEY)
        writer.close()


async def test_a_defect_is_500_and_tells_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> bytes:
        raise ValueError("CANARY")

    async with serving() as (gate, port):
        monkeypatch.setattr(gate.metrics, "render", broken)
        answer = await exchange(port, get(b"/metrics"))
        assert status(answer) == 500
        assert status(await exchange(port, get(b"/healthz"))) == 200
    assert b"CANARY" not in answer
    assert "CANARY" not in caplog.text
    assert "request failed" in caplog.text


async def test_a_unix_socket_is_local(tmp_path: Path) -> None:
    path = tmp_path / "rest.sock"
    gate = Gate()
    running = await serve(gate.app, listen_unix(f"unix://{path}"))
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(get(RESOURCE))
    answer = await reader.read()
    writer.close()
    await running.cleanup()
    assert body(answer) == KEY


def own_address() -> str | None:
    """An address of this machine that is not loopback, if there is one. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address


@pytest.mark.parametrize("raw", [get(RESOURCE), b"\x00garbage\r\n\r\n", get(b"*", method=b"OPTIONS")])
async def test_peers_outside_get_403_on_an_open_address(raw: bytes) -> None:
    address = own_address()
    if address is None:
        pytest.skip("this machine has loopback addresses only")
    async with serving(bind="0.0.0.0:0") as (gate, port):
        answer = await exchange(port, raw, host=address)
        assert (status(answer), body(answer)) == (403, b"Forbidden")
        assert gate.roles.asked == []
        assert status(await exchange(port, get(RESOURCE))) == 200


async def test_a_dual_stack_socket_serves_ipv4_loopback() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no dual-stack sockets here")
    async with serving(bind="[::]:0") as (_, port):
        assert body(await exchange(port, get(RESOURCE), host="127.0.0.1")) == KEY
        assert body(await exchange(port, get(RESOURCE), host="::1")) == KEY


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8006",
        "127.0.0.1",
        "127.0.0.1:",
        ":8006",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "::1:8006",
        "[127.0.0.1]:8006",
        "[::1%lo]:8006",
        "127.1:8006",
        "256.0.0.1:8006",
        "192.0.2.1:0",
        "",
    ],
)
def test_addresses_that_are_not_a_local_literal_are_configuration_errors(address: str) -> None:
    with pytest.raises(AgentError) as raised:
        bind_tcp(address)
    assert raised.value.code is ErrorCode.CONFIG_INVALID


def test_a_taken_address_is_a_configuration_error() -> None:
    [first] = bind_tcp("127.0.0.2:0")
    with first, pytest.raises(AgentError) as raised:
        bind_tcp(f"127.0.0.2:{first.getsockname()[1]}")
    assert raised.value.code is ErrorCode.CONFIG_INVALID


async def curl(*arguments: str) -> tuple[int, bytes]:
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--noproxy", "*", "-m", "20", *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output


async def test_curl_as_workloads_use_it(tmp_path: Path) -> None:
    async with serving() as (gate, port):
        base = f"http://127.0.0.1:{port}"
        assert await curl(f"{base}/cdh/resource/default/key/1") == (0, KEY)
        assert await curl("--http2", f"{base}/cdh/resource/default/key/1") == (0, KEY)
        assert await curl("-f", f"http://localhost:{port}/cdh/resource/default/key/1") == (0, KEY)
        code, token = await curl(f"{base}/aa/token?token_type=kbs")
        assert (code, sorted(json.loads(token))) == (0, ["tee_keypair", "token"])
        event = tmp_path / "event.json"
        event.write_text('{"domain":"d","operation":"o","content":"c"}')
        data = ("--data-binary", f"@{event}")
        assert await curl(*data, f"{base}/aa/aael") == (0, b'{"success":"true"}')
        assert await curl(*data, "-H", "Expect: 100-continue", f"{base}/aa/aael") == (
            0,
            b'{"success":"true"}',
        )
        gate.roles.error = ErrorCode.RESOURCE_DENIED
        assert (await curl("-f", f"{base}/cdh/resource/default/key/1"))[0] == 22
        _, problem = await curl("-H", "Accept: application/json", f"{base}/cdh/resource/default/key/1")
        assert json.loads(problem)["code"] == "RESOURCE_DENIED"
        gate.roles.error = None
        proxy = ("--noproxy", "", "-x", base)
        assert await curl(*proxy, "http://evil.com/cdh/resource/default/key/1") == (0, b"Forbidden")
        assert await curl(*proxy, f"{base}/cdh/resource/default/key/1") == (0, KEY)
        assert await curl(*proxy, f"http://localhost.:{port}/cdh/resource/default/key/1") == (0, KEY)
        assert await curl("-0", f"{base}/cdh/resource/default/key/1") == (0, KEY)
        assert await curl("-g", f"http://[::1]:{port}/cdh/resource/default/key/1") == (0, KEY)
