"""The client's way through proxies, over loopback."""

from __future__ import annotations

import base64
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from agent.devkit import pki
from agent.http.client.exchange import HttpError, Repeat, Trouble
from agent.http.tls import Trust
from agent.http.url import Url
from tests.integration.http.servers import OK, Seen, always, client, get, server
from tests.integration.raw_kbs import Proxy, reply

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from agent.http.client.client import Client

pytestmark = pytest.mark.integration

FAR = Url.parse("http://kbs.example:8080/x?y")
FAR_TLS = Url.parse("https://kbs.example/x")


@asynccontextmanager
async def through(
    answer: bytes = b"", tls: ssl.SSLContext | None = None, user: str = ""
) -> AsyncIterator[tuple[Proxy, Client]]:
    proxy = Proxy(answer)
    await proxy.start(tls)
    made = client(f"http{'s' if tls else ''}://{user}localhost:{proxy.port}")
    try:
        yield proxy, made
    finally:
        await made.close()
        await proxy.stop()


async def test_a_plain_request_names_its_server_to_the_proxy() -> None:
    async with through() as (proxy, http):
        for _ in range(2):
            assert (await http.send(get(FAR))).body == b"by proxy"
    assert proxy.heads[0].startswith("GET http://kbs.example:8080/x?y HTTP/1.1\r\nHost: kbs.example:8080\r\n")
    assert proxy.connections == 1


@pytest.mark.parametrize(
    ("user", "sent"),
    [("", None), ("user@", b"user:"), ("user:pass@", b"user:pass"), ("a%40b:%C3%A4%3A@", b"a@b:\xc3\xa4:")],
)
async def test_credentials_are_for_the_proxy_alone(user: str, sent: bytes | None) -> None:
    root = pki.Authority()
    header = f"Proxy-Authorization: Basic {base64.b64encode(sent or b'').decode()}\r\n"
    with server(always(), tls=root.issue().context()) as there:
        async with through(user=user) as (proxy, http):
            await http.send(get(there.url(), trust=Trust(root.pem)))
            await http.send(get(FAR))
        assert [header in head for head in proxy.heads] == [sent is not None] * 2
        assert b"proxy-authorization" not in there.requests[0].lower()


@pytest.mark.parametrize("proxy_tls", [False, True])
async def test_tls_through_a_tunnel(proxy_tls: bool) -> None:
    root, seen = pki.Authority(), Seen()
    context = root.issue().context() if proxy_tls else None
    with server(always(), tls=root.issue().context()) as there:
        async with through(tls=context, user="u:p@") as (proxy, http):
            trust = Trust(root.pem)
            for _ in range(3):
                assert (await http.send(get(there.url("/x"), trust=trust), seen)).body == b"ok"
            body = b"x" * 2_000_000  # more than buffers hold
            assert (await http.send(get(there.url(), trust=trust, body=body))).body == b"ok"
        assert there.connections == proxy.connections == 1
        assert proxy.heads[0].startswith(f"CONNECT localhost:{there.port} HTTP/1.1\r\n")
        assert there.requests[0].startswith(b"GET /x HTTP/1.1\r\n")
    first = ["connect", "name", "connect", *(["tls", "connect"] if proxy_tls else []), "tls", "answer"]
    assert seen.steps == [*first, "answer kept", "answer kept"]


async def test_plain_http_through_a_proxy_with_tls() -> None:
    root = pki.Authority()
    async with through(tls=root.issue().context()) as (_, http):
        assert (await http.send(get(FAR, trust=Trust(root.pem)))).body == b"by proxy"
        with pytest.raises(HttpError) as caught:
            await http.send(get(FAR, trust=Trust(pki.Authority("x").pem)))
        assert caught.value.trouble is Trouble.TLS
        with pytest.raises(HttpError) as caught:
            await http.send(get(FAR))
        assert caught.value.trouble is Trouble.REFUSED


async def test_proxy_and_server_of_different_cas_of_one_name() -> None:
    one, two = (pki.Authority("CA", key_ids=False) for _ in range(2))
    for outer, inner in ((one, two), (two, one)):
        with server(always(), tls=inner.issue("127.0.0.1").context()) as there:
            async with through(tls=outer.issue("localhost").context()) as (_, http):
                url = Url("https", "127.0.0.1", there.port)
                assert (await http.send(get(url, trust=Trust(one.pem + two.pem)))).body == b"ok"


@pytest.mark.parametrize("status", [400, 403, 407, 502])
async def test_a_proxy_that_does_not_connect(status: int) -> None:
    async with through(reply(b"some page", f"{status} No")) as (proxy, http):
        with pytest.raises(HttpError) as caught:
            await http.send(get(FAR_TLS, trust=Trust(), repeat=Repeat.LOST))
        assert len(proxy.heads) == 1
    assert (caught.value.trouble, caught.value.status) == (Trouble.TUNNEL, status)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\n\x16\x03\x03",
        b"HTTP/1.1 200 OK\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100 + b"\r\n",
        b"nonsense\r\n\r\n",
    ],
)
async def test_what_a_proxy_may_not_answer(answer: bytes) -> None:
    async with through(answer) as (_, http):
        with pytest.raises(HttpError) as caught:
            await http.send(get(FAR_TLS, trust=Trust()))
    assert caught.value.trouble is Trouble.FRAMING


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 Connection established\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
        b"HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
async def test_answers_that_open_a_tunnel(answer: bytes) -> None:
    """Whatever their heads say of a body (RFC 9110 9.3.6). This proxy opens none, so TLS waits."""
    async with through(answer) as (_, http):
        with pytest.raises(HttpError) as caught:
            await http.send(get(FAR_TLS, trust=Trust(), connect=0.3))
    assert caught.value.trouble is Trouble.TIME


async def test_a_proxy_that_is_not_there() -> None:
    http = client("http://127.0.0.1:1")
    with pytest.raises(HttpError) as caught:
        await http.send(get(FAR))
    assert caught.value.trouble is Trouble.PROXY
    await http.close()
