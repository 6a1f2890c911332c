"""The way out to services: connections, TLS of a service's own, an environment that is not believed."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import tempfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from agent.config import limits
from agent.config.model import Kms
from agent.devkit.pki import Authority
from agent.devkit.web import web
from agent.errors import AgentError, ErrorCode
from agent.hub.kms.http import KmsHttp
from agent.secret import Secret
from tests.integration.kms.stand import soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

pytestmark = pytest.mark.integration


@asynccontextmanager
async def served(
    answer: Callable[[web.Request], web.Response], context: ssl.SSLContext | None
) -> AsyncIterator[str]:
    async def handle(request: web.Request) -> web.Response:
        return answer(request)

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        port = runner.addresses[0][1]
        yield f"http{'s' if context else ''}://{'localhost' if context else '127.0.0.1'}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_server(*answers: bytes) -> AsyncIterator[tuple[str, list[int]]]:
    """Each answer is sent for one request; b"" closes the connection instead."""
    left = list(answers)
    connections: list[int] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        try:
            while left:
                await reader.readuntil(b"\r\n\r\n")
                answer = left.pop(0)
                if not answer:
                    break
                writer.write(answer)
                await writer.drain()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", connections


@asynccontextmanager
async def client(url: str, roots: str = "") -> AsyncIterator[KmsHttp]:
    made = KmsHttp(Kms(endpoints=(url,), extra_roots=roots))
    try:
        yield made
    finally:
        await made.close()


def client_identity(name: str) -> tuple[str, Secret]:
    """A self-signed client certificate, and the PEM of it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    cert = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return cert.decode(), Secret(cert + private)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_a_request_arrives_as_it_was_given() -> None:
    seen: list[tuple[str, ...]] = []

    def answer(request: web.Request) -> web.Response:
        known = {name: request.headers.get(name, "-") for name in ("Host", "X-One", "Cookie", "User-Agent")}
        seen.append((request.method, request.raw_path, *known.values()))
        return web.Response(text="ok", headers={"Set-Cookie": "a=b", "Retry-After": "7"})

    async with served(answer, None) as url, client(url) as http:
        for _ in range(2):
            told = await http.send("PUT", f"{url}/a%2Fb//c?x=%20&y", {"X-One": "1"}, b"", soon())
    host = url.removeprefix("http://")
    assert seen == [("PUT", "/a%2Fb//c?x=%20&y", host, "1", "-", "coco-agent")] * 2
    assert (told.status, told.body, told.retry_after) == (200, b"ok", 7.0)


async def test_a_kept_connection_that_was_closed() -> None:
    async with raw_server(OK, b"", OK) as (url, connections), client(url) as http:
        for _ in range(2):
            assert (await http.send("POST", url, {}, b"", soon())).body == b"ok"
    assert len(connections) == 2


async def test_a_service_that_only_hangs_up() -> None:
    async with raw_server(b"", b"", b"", b"") as (url, connections), client(url) as http:
        with pytest.raises(AgentError) as caught:
            await http.send("POST", url, {}, b"", soon())
    assert caught.value.code is ErrorCode.KMS_UNREACHABLE
    assert len(connections) == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\nLocation: /\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
async def test_answers_that_will_not_do(answer: bytes) -> None:
    async with raw_server(answer) as (url, _), client(url) as http:
        with pytest.raises(AgentError) as caught:
            await http.send("GET", url, {}, b"", soon())
    assert caught.value.code is ErrorCode.KMS_BAD_RESPONSE


async def test_a_name_that_is_none() -> None:
    url = "https://kms.invalid:8200"
    async with client(url) as http:
        with pytest.raises(AgentError) as caught:
            await http.send("GET", url, {}, b"", soon())
    assert caught.value.code is ErrorCode.KMS_UNREACHABLE
    assert "kms.invalid" in caught.value.detail


async def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stranger = Authority()
    (tmp_path / "roots.pem").write_text(stranger.pem)
    (tmp_path / "netrc").write_text("machine localhost login a password b\n")
    for name, value in {
        "SSL_CERT_FILE": str(tmp_path / "roots.pem"),
        "NETRC": str(tmp_path / "netrc"),
        "https_proxy": "http://127.0.0.1:1",
        "HTTPS_PROXY": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    ours = Authority()

    def answer(request: web.Request) -> web.Response:
        return web.Response(text=request.headers.get("Authorization", "nothing"))

    async with served(answer, ours.issue().context()) as url, client(url, ours.pem) as http:
        assert (await http.send("GET", url, {}, b"", soon())).body == b"nothing"
    async with served(answer, stranger.issue().context()) as url, client(url) as http:
        with pytest.raises(AgentError) as caught:
            await http.send("GET", url, {}, b"", soon())
    assert caught.value.code is ErrorCode.KMS_UNREACHABLE


async def test_a_service_with_roots_and_a_client_certificate_of_its_own() -> None:
    ours, (known, identity) = Authority(), client_identity("workload")
    context = ours.issue().context()
    context.verify_mode = ssl.CERT_REQUIRED
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(known)
        file.flush()
        context.load_verify_locations(file.name)

    def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        peer = request.transport.get_extra_info("peercert")
        return web.Response(text=str(bool(peer)))

    _, stranger = client_identity("stranger")
    async with served(answer, context) as url, client(url) as http:
        trust = await http.trust(ours.pem, identity)
        assert (await http.send("GET", url, {}, b"", soon(), trust=trust)).body == b"True"
        for without in (None, await http.trust(ours.pem), await http.trust(ours.pem, stranger)):
            with pytest.raises(AgentError) as caught:
                await http.send("GET", url, {}, b"", soon(), trust=without)
            assert caught.value.code is ErrorCode.KMS_UNREACHABLE


@pytest.mark.parametrize("first", [True, False])
async def test_a_service_whose_ca_has_the_name_of_a_configured_one(first: bool) -> None:
    """``kms.cert`` and the roots of a secret, both without key identifiers: each signs, in any order."""
    ours, theirs = Authority(key_ids=False), Authority(key_ids=False)
    signer = ours if first else theirs

    def answer(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async with served(answer, signer.issue().context()) as url, client(url, ours.pem) as http:
        trust = await http.trust(theirs.pem)
        assert (await http.send("GET", url, {}, b"", soon(), trust=trust)).body == b"ok"
    async with (
        served(answer, Authority(key_ids=False).issue().context()) as url,
        client(url, ours.pem) as http,
    ):
        with pytest.raises(AgentError) as caught:
            await http.send("GET", url, {}, b"", soon(), trust=await http.trust(theirs.pem))
        assert caught.value.code is ErrorCode.KMS_UNREACHABLE


@pytest.mark.parametrize("order", [1, -1])
async def test_two_configured_cas_of_one_name(order: int) -> None:
    cas = [Authority(key_ids=False) for _ in range(2)]

    def answer(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    for signer in cas:
        roots = "\n".join(one.pem for one in cas[::order])
        async with served(answer, signer.issue().context()) as url, client(url, roots) as http:
            assert (await http.send("GET", url, {}, b"", soon())).body == b"ok"


async def test_no_more_exchanges_than_connections() -> None:
    under_way, most = 0, 0

    async def handle(request: web.Request) -> web.Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with client(url) as http:
        await asyncio.gather(*(http.send("GET", url, {}, b"", soon()) for _ in range(60)))
    await runner.cleanup()
    assert most <= limits.KMS_CONNECTIONS
