"""The broker's HTTP client: connections, time, TLS and proxies, over loopback."""

from __future__ import annotations

import asyncio
import math
import socket
from typing import TYPE_CHECKING

import pytest

from agent.config import limits
from agent.devkit import pki
from agent.errors import ErrorCode
from tests.integration.raw_kbs import (
    COOKIE,
    TOKEN,
    URI,
    RawServer,
    black_hole,
    clients,
    failure,
    plain,
    proxy,
    raw_server,
    reply,
    secure,
    soon,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agent.kbs.client import KbsClient

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has the time for a second try."""
    monkeypatch.setattr(limits, "RETRY_LEAST", math.inf)


@pytest.fixture
async def client_of() -> AsyncIterator[Callable[..., KbsClient]]:
    async with clients() as make:
        yield make


# --- connections and time -------------------------------------------------------------------------
async def test_requests_share_a_connection(client_of: Callable[..., KbsClient]) -> None:
    async with raw_server(reply()) as server:
        client = client_of(plain(server))
        for _ in range(5):
            await client.get(URI, TOKEN, soon())
    assert server.connections == 1


@pytest.mark.parametrize("call", ["get", "auth"])
async def test_a_kept_connection_that_died_goes_unnoticed(
    client_of: Callable[..., KbsClient], call: str
) -> None:
    good = reply(b"{}", head=COOKIE)
    async with raw_server(good, b"\0close", good) as server:
        client = client_of(plain(server))
        await client.auth(b"{}", soon())
        if call == "get":
            await client.get(URI, TOKEN, soon())
        else:
            await client.auth(b"{}", soon())
    assert server.connections == 2
    assert len(server.heads) == 3


async def test_evidence_is_never_sent_twice(client_of: Callable[..., KbsClient]) -> None:
    async with raw_server(reply(b"{}", head=COOKIE), b"\0close", reply()) as server:
        client = client_of(plain(server))
        await client.auth(b"{}", soon())
        assert (await failure(client, call="attest")).code is ErrorCode.KBS_UNREACHABLE
    assert len(server.heads) == 2


async def test_a_broker_that_is_down_is_unreachable_until_it_is_back(
    client_of: Callable[..., KbsClient],
) -> None:
    server = RawServer(reply(b"value"))
    await server.start()
    client = client_of(plain(server))
    await server.stop()
    assert (await failure(client)).code is ErrorCode.KBS_UNREACHABLE
    kbs = await asyncio.start_server(server._serve, "127.0.0.1", server.port)
    assert (await client.get(URI, TOKEN, soon()))[1] == b"value"
    await client.close()
    kbs.close()


async def test_a_name_that_does_not_exist_is_a_dns_failure(
    client_of: Callable[..., KbsClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unknown(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    error = await failure(client_of("http://broker.invalid:8080"))
    assert error.code is ErrorCode.KBS_DNS_FAILED
    assert "broker.invalid" in error.detail


@pytest.mark.parametrize("call", ["get", "auth", "attest"])
async def test_the_callers_deadline_ends_a_silent_broker(
    client_of: Callable[..., KbsClient], call: str
) -> None:
    async with raw_server(b"\0hold") as server:
        error = await failure(client_of(plain(server)), soon(0.2), call=call)
    assert error.code is (ErrorCode.APPRAISAL_TIMEOUT if call == "attest" else ErrorCode.KBS_TIMEOUT)
    assert "waiting for the broker's answer" in error.detail


async def test_the_callers_deadline_ends_a_slow_body(client_of: Callable[..., KbsClient]) -> None:
    async with raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nslow\0hold") as server:
        error = await failure(client_of(plain(server)), soon(0.2))
    assert error.code is ErrorCode.KBS_TIMEOUT
    assert "reading the broker's answer" in error.detail


async def test_our_own_limit_ends_a_silent_broker(client_of: Callable[..., KbsClient]) -> None:
    async with raw_server(b"\0hold") as server:
        error = await failure(client_of(plain(server), request_timeout=0.2))
    assert error.code is ErrorCode.KBS_TIMEOUT
    assert "answer" in error.detail


async def test_our_own_limit_ends_connecting(client_of: Callable[..., KbsClient]) -> None:
    async with black_hole() as port:
        error = await failure(client_of(f"http://127.0.0.1:{port}", connect_timeout=0.3))
    assert error.code is ErrorCode.KBS_UNREACHABLE
    assert "connecting to the broker" in error.detail


async def test_the_callers_deadline_ends_connecting(client_of: Callable[..., KbsClient]) -> None:
    async with black_hole() as port:
        error = await failure(client_of(f"http://127.0.0.1:{port}"), soon(0.2))
    assert error.code is ErrorCode.KBS_UNREACHABLE
    assert "connecting to the broker" in error.detail


async def test_more_callers_than_connections_all_get_their_answer(
    client_of: Callable[..., KbsClient],
) -> None:
    async with raw_server(reply(b"value")) as server:
        client = client_of(plain(server))
        answers = await asyncio.gather(*(client.get(URI, TOKEN, soon()) for _ in range(100)))
        assert {body for _, body in answers} == {b"value"}
        assert server.connections <= 32


async def test_a_closed_client_says_so(client_of: Callable[..., KbsClient]) -> None:
    client = client_of("http://127.0.0.1:1")
    await client.close()
    assert (await failure(client)).code is ErrorCode.CANCELLED


# --- TLS ------------------------------------------------------------------------------------------
async def test_tls_with_a_configured_root(client_of: Callable[..., KbsClient]) -> None:
    root = pki.Authority()
    async with raw_server(reply(b"value"), tls=root.issue().context()) as server:
        client = client_of(secure(server), extra_roots=root.pem, require_tls=True)
        assert (await client.get(URI, TOKEN, soon()))[1] == b"value"
        assert (await client.get(URI, TOKEN, soon()))[1] == b"value"
    assert server.connections == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("ca", [True, False])
async def test_tls_with_a_pin_of_a_self_signed_certificate(
    client_of: Callable[..., KbsClient], host: str, ca: bool
) -> None:
    identity = pki.self_signed("somewhere.example", ca=ca)
    async with raw_server(reply(b"value"), tls=identity.context()) as server:
        client = client_of(secure(server, host), pins=(bytes(32), identity.pin))
        assert (await client.get(URI, TOKEN, soon()))[1] == b"value"


@pytest.mark.parametrize(
    ("identity", "trust", "reason"),
    [
        ("own root", "pin", "not pinned"),
        ("own root", "nothing", "certificate"),
        ("other name", "root", "mismatch"),
        ("expired", "root", "expired"),
    ],
)
async def test_tls_that_is_not_trusted(
    client_of: Callable[..., KbsClient], identity: str, trust: str, reason: str
) -> None:
    root = pki.Authority()
    issued = {
        "own root": root.issue(),
        "other name": root.issue("other.example"),
        "expired": root.issue(expired=True),
    }[identity]
    trusts: dict[str, dict[str, object]] = {
        "pin": {"pins": (bytes(32),)},
        "nothing": {},
        "root": {"extra_roots": root.pem},
    }
    async with raw_server(reply(b"value"), tls=issued.context()) as server:
        error = await failure(client_of(secure(server), **trusts[trust]))
        assert error.code is ErrorCode.KBS_TLS_FAILED
        assert reason in error.detail
        assert server.heads == []  # not one byte of a request


async def test_a_plain_server_at_an_https_url_is_told_from_a_wrong_ca(
    client_of: Callable[..., KbsClient],
) -> None:
    async with raw_server(reply()) as server:
        server._one = lambda reader, writer: _talk(writer)  # type: ignore[method-assign]
        error = await failure(client_of(secure(server)))
    assert error.code is ErrorCode.KBS_NOT_TLS
    assert f"127.0.0.1:{server.port}" in error.detail or f"localhost:{server.port}" in error.detail


async def test_a_tls_server_at_an_http_url_says_so(client_of: Callable[..., KbsClient]) -> None:
    issued = pki.Authority().issue()
    async with raw_server(reply(), tls=issued.context()) as server:
        error = await failure(client_of(plain(server)))
    # OpenSSL answers a request that is no handshake with an alert, or only closes.
    assert error.code in {ErrorCode.KBS_BAD_RESPONSE, ErrorCode.KBS_UNREACHABLE}
    assert error.code is not ErrorCode.KBS_BAD_RESPONSE or "this is TLS" in error.detail


async def _talk(writer: asyncio.StreamWriter) -> bool:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()
    return False


async def test_a_connection_lost_in_the_tls_handshake_is_unreachable(
    client_of: Callable[..., KbsClient],
) -> None:
    async with raw_server(b"") as server:

        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            await reader.read(10)
            return False

        server._one = hang_up  # type: ignore[method-assign]
        assert (await failure(client_of(secure(server)))).code is ErrorCode.KBS_UNREACHABLE


# --- proxies --------------------------------------------------------------------------------------
async def test_plain_http_goes_to_the_proxy_with_the_whole_url(client_of: Callable[..., KbsClient]) -> None:
    async with proxy() as there:
        client = client_of("http://broker.example:8080", proxy=plain(there))
        assert (await client.get(URI, TOKEN, soon()))[1] == b"by proxy"
    assert there.heads[0].startswith("GET http://broker.example:8080/kbs/v0/resource/default/key/1 HTTP/1.1")


async def test_https_is_tunnelled_and_the_proxy_sees_no_token(client_of: Callable[..., KbsClient]) -> None:
    root = pki.Authority()
    async with raw_server(reply(b"value"), tls=root.issue().context()) as server, proxy() as there:
        address = plain(there).replace("http://", "http://user:pass@")
        client = client_of(secure(server), proxy=address, extra_roots=root.pem)
        assert (await client.get(URI, TOKEN, soon()))[1] == b"value"
        await client.close()
    assert there.heads[0].startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1")
    assert "Proxy-Authorization: Basic dXNlcjpwYXNz" in there.heads[0]
    assert "canary" not in there.heads[0]
    assert "Proxy-Authorization" not in server.heads[0]


async def test_a_pin_holds_through_a_proxy(client_of: Callable[..., KbsClient]) -> None:
    good, bad = pki.self_signed(), pki.self_signed()
    async with raw_server(reply(b"value"), tls=good.context()) as server, proxy() as there:
        client = client_of(secure(server), proxy=plain(there), pins=(good.pin,))
        assert (await client.get(URI, TOKEN, soon()))[1] == b"value"
        await client.close()
        wrong = client_of(secure(server), proxy=plain(there), pins=(bad.pin,))
        assert (await failure(wrong)).code is ErrorCode.KBS_TLS_FAILED
        assert len(server.heads) == 1


async def test_a_proxy_that_refuses_is_named(client_of: Callable[..., KbsClient]) -> None:
    async with proxy(reply(b"canary", "407 Proxy Authentication Required")) as there:
        error = await failure(client_of("https://broker.example", proxy=plain(there)))
    assert error.code is ErrorCode.KBS_UNREACHABLE
    assert "proxy" in error.detail
    assert "407" in error.detail


async def test_a_proxy_that_is_down_is_named(client_of: Callable[..., KbsClient]) -> None:
    server = RawServer(b"")
    await server.start()
    await server.stop()
    error = await failure(client_of("http://broker.example", proxy=plain(server)))
    assert error.code is ErrorCode.KBS_UNREACHABLE
    assert "proxy" in error.detail


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_wants_credentials_says_what_to_do(
    client_of: Callable[..., KbsClient], scheme: str
) -> None:
    async with proxy(reply(b"canary", "407 Proxy Authentication Required")) as there:
        error = await failure(client_of(f"{scheme}://broker.example", proxy=plain(there)))
    assert error.code is ErrorCode.KBS_UNREACHABLE
    assert "kbs.proxy" in error.detail
    assert "user:password@" in error.detail


async def test_a_broker_that_answers_407_is_not_taken_for_a_proxy(
    client_of: Callable[..., KbsClient],
) -> None:
    async with raw_server(reply(b"", "407 No")) as server:
        assert "proxy" not in (await failure(client_of(plain(server)))).detail


@pytest.mark.parametrize("order", [1, -1])
async def test_two_cas_of_one_name(client_of: Callable[..., KbsClient], order: int) -> None:
    cas = [pki.Authority(key_ids=False) for _ in range(2)]
    roots = "\n".join(one.pem for one in cas[::order])
    for signer in cas:
        async with raw_server(reply(b"value"), tls=signer.issue().context()) as server:
            client = client_of(secure(server), extra_roots=roots)
            assert (await client.get(URI, TOKEN, soon()))[1] == b"value"
            stranger = client_of(secure(server), extra_roots=pki.Authority(key_ids=False).pem)
            assert (await failure(stranger)).code is ErrorCode.KBS_TLS_FAILED


async def test_evidence_goes_out_once_on_a_balancers_408(client_of: Callable[..., KbsClient]) -> None:
    late = reply(b"", "408 Request Time-out", "Connection: close\r\n")
    async with raw_server(reply(b"{}", head=COOKIE), late, reply()) as server:
        client = client_of(plain(server))
        await client.auth(b"{}", soon())
        await failure(client, call="attest")
    assert len(server.heads) == 2
