"""The development KBS over loopback, asked by aiohttp."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from agent.clock import Deadline
from agent.config.model import KeyAlgorithm
from agent.devkit import pki
from agent.devkit.clock import FakeClock
from agent.devkit.kbs import DevKbs, Fault, Kind, Settings
from agent.devkit.sample import SampleAttester, SampleDevice
from agent.devkit.web import aiohttp
from agent.errors import AgentError, ErrorCode
from agent.kbs import handshake, jwe
from agent.kbs.keys import TeeKey
from tests.unit.devkit.guest import REQUEST, Guest, claims_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.integration

PROBLEM = "https://github.com/confidential-containers/kbs/errors/"
RESOURCE = "/kbs/v0/resource/default/key/1"


class Client:
    """Plain HTTP; cookies are handled by hand, as the protocol sheet advises."""

    def __init__(self, kbs: DevKbs, session: aiohttp.ClientSession) -> None:
        self.kbs = kbs
        self.http = session
        self.guest = Guest()

    async def send(
        self, method: str, path: str, *, tls: ssl.SSLContext | None = None, **options: Any
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        url = self.kbs.url + path
        async with self.http.request(
            method, url, allow_redirects=False, ssl=tls if tls is not None else True, **options
        ) as reply:
            return reply, await reply.read()

    async def auth(self) -> tuple[str, str]:
        """Nonce and cookie."""
        reply, body = await self.send("POST", "/kbs/v0/auth", json=REQUEST)
        assert reply.status == 200
        return json.loads(body)["nonce"], reply.headers["Set-Cookie"].partition(";")[0]

    async def attest(self, nonce: str, cookie: str) -> tuple[aiohttp.ClientResponse, bytes]:
        body = self.guest.attestation(nonce)
        return await self.send("POST", "/kbs/v0/attest", json=body, headers={"Cookie": cookie})

    async def token(self) -> str:
        reply, body = await self.attest(*await self.auth())
        assert reply.status == 200
        jwt: str = json.loads(body)["token"]
        return jwt

    async def get(self, jwt: str, path: str = RESOURCE) -> tuple[aiohttp.ClientResponse, bytes]:
        return await self.send("GET", path, headers={"Authorization": f"Bearer {jwt}"})


@pytest_asyncio.fixture
async def client() -> AsyncIterator[Client]:
    async with (
        DevKbs() as kbs,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
    ):
        kbs.put("default/key/1", b"attested secret")
        yield Client(kbs, session)


async def test_the_whole_wire_trace(client: Client) -> None:
    reply, body = await client.send("POST", "/kbs/v0/auth", json=REQUEST)
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    cookie = reply.headers["Set-Cookie"]
    assert cookie.startswith("kbs-session-id=")
    assert [part.strip().partition("=")[0] for part in cookie.split(";")] == ["kbs-session-id", "Expires"]
    challenge = json.loads(body)
    assert challenge["extra-params"] == ""

    reply, body = await client.attest(challenge["nonce"], cookie.partition(";")[0])
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    assert reply.headers["Set-Cookie"] == cookie
    jwt = json.loads(body)["token"]
    assert claims_of(jwt)["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["sample"]["svn"] == "1"

    for credential in ({"Cookie": cookie.partition(";")[0]}, {"Authorization": f"Bearer {jwt}"}):
        reply, body = await client.send("GET", RESOURCE, headers=credential)
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
        assert "Set-Cookie" not in reply.headers
        assert client.guest.decrypt(body) == b"attested secret"

    counters = client.kbs.counters
    assert {name: counters[name] for name in ("auth", "attest", "resource", "requests")} == {
        "auth": 1,
        "attest": 1,
        "resource": 2,
        "requests": 4,
    }
    assert counters["connections"] == 1


async def test_problems_are_json_without_a_content_type(client: Client) -> None:
    jwt = await client.token()
    client.kbs.add_plugin("raw")
    client.kbs.put("x", b"<x/>", plugin="raw")
    client.kbs.deny("denied/*")

    async def kind(path: str, bearer: str = jwt) -> tuple[int, str]:
        reply, body = await client.get(bearer, path)
        assert "Content-Type" not in reply.headers
        problem = json.loads(body)
        assert set(problem) == {"type", "detail"}
        assert problem["type"].startswith(PROBLEM)
        return reply.status, problem["type"].removeprefix(PROBLEM)

    assert await kind(RESOURCE, "") == (401, "TokenNotFound")
    assert await kind(RESOURCE, "rubbish") == (401, "TokenVerifierError")
    assert await kind("/kbs/v0/resource/denied/key/1") == (401, "PolicyDeny")
    assert await kind("/kbs/v0/resource/default/key/2") == (401, "PluginInternalError")
    assert await kind("/kbs/v0/resource//default/key/1") == (401, "PluginInternalError")
    assert await kind("/kbs/v0/nope/x") == (404, "PluginNotFound")
    assert await kind("/kbs/v0/auth") == (404, "PluginNotFound")
    reply, body = await client.get(jwt, "/kbs/v0/raw/x?name=a%20b")
    assert (reply.status, reply.headers["Content-Type"], body) == (200, "text/xml", b"<x/>")
    assert client.kbs.seen[-1].target == "/kbs/v0/raw/x?name=a%20b"


async def test_a_resource_path_may_be_percent_encoded(client: Client) -> None:
    jwt = await client.token()
    _, body = await client.get(jwt, "/kbs/v0/resource/default%2Fkey/1")
    assert client.guest.decrypt(body) == b"attested secret"
    assert client.kbs.seen[-1].target == "/kbs/v0/resource/default%2Fkey/1"


async def test_it_understands_the_agents_own_handshake(client: Client) -> None:
    deadline, key = Deadline.never(FakeClock()), TeeKey.generate(KeyAlgorithm.EC_P521)
    body = handshake.build_request("sample")
    reply, body = await client.send("POST", "/kbs/v0/auth", data=body)
    challenge = handshake.parse_challenge(body)
    device = await SampleDevice().collect(handshake.device_report_data(challenge, key.jwk()), deadline)
    additional = b'{"sampledevice":' + device + b"}"
    digest = handshake.primary_report_data(challenge, key.jwk(), additional)
    primary = await SampleAttester().collect(digest, deadline)
    body = handshake.build_attestation(challenge, key.jwk(), primary, additional, None)
    cookie = reply.headers["Set-Cookie"].partition(";")[0]
    reply, body = await client.send("POST", "/kbs/v0/attest", data=body, headers={"Cookie": cookie})
    assert reply.status == 200
    _, body = await client.get(handshake.parse_token_reply(body).reveal().decode())
    assert jwe.decrypt(body, key).reveal() == b"attested secret"


@pytest.mark.parametrize("path", ["%FF", "%ED%A0%80", "resource/%00/a/b", "resource/a/../b", "%", "?a=%FF"])
async def test_strange_paths_are_refused_with_a_problem(client: Client, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.kbs.port)
    writer.write(f"GET /kbs/v0/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.split()[1] in {b"400", b"401", b"404"}


async def test_large_resources_are_released(client: Client) -> None:
    client.kbs.put("default/model/1", bytes(3_000_000))
    _, body = await client.get(await client.token(), "/kbs/v0/resource/default/model/1")
    assert client.guest.decrypt(body) == bytes(3_000_000)


async def test_attest_needs_its_own_cookie_and_nonce(client: Client) -> None:
    first, second = await client.auth(), await client.auth()
    for nonce, cookie in ((first[0], "x=y"), (first[0], second[1])):
        reply, body = await client.attest(nonce, cookie)
        assert reply.status == 401
        assert json.loads(body)["detail"] == "Attestation error: RCAR handshake Attest failed"
    assert (await client.attest(*first))[0].status == 200


async def test_the_framework_answers_in_plain_text(client: Client) -> None:
    for method, path, status in (
        ("GET", "/nowhere", 404),
        ("PATCH", "/kbs/v0/auth", 405),
        ("HEAD", RESOURCE, 405),
        ("POST", "/metrics", 405),
    ):
        reply, _ = await client.send(method, path)
        assert (reply.status, reply.content_type) == (status, "text/plain")
    reply, _ = await client.send("POST", "/kbs/v0/auth", data=io.BytesIO(bytes(2 * 1024 * 1024 + 1)))
    assert (reply.status, reply.content_type) == (413, "text/plain")


async def test_health_and_metrics(client: Client) -> None:
    reply, body = await client.send("GET", "/healthz")
    assert (reply.status, body) == (200, b"")
    await client.token()
    _, body = await client.send("GET", "/metrics")
    assert b"kbs_attestation_successes_total 1\n" in body
    assert b"kbs_http_requests_total 2\n" in body


async def test_administration_over_http(client: Client) -> None:
    path = "/kbs/v0/resource/default/key/2"
    reply, body = await client.send("POST", path, data=b"new")
    assert (reply.status, reply.headers["Content-Type"], body) == (200, "text/xml", b"")
    _, body = await client.get(await client.token(), path)
    assert client.guest.decrypt(body) == b"new"
    reply, _ = await client.send("POST", path, data=b"evil", headers={"Origin": "http://evil.example"})
    assert reply.status == 401
    assert (await client.send("DELETE", path))[0].status == 200
    assert (await client.send("DELETE", path))[0].status == 401


# --- faults ----------------------------------------------------------------------------------------


async def test_held_requests_wait_for_the_gate_and_stop_does_not(client: Client) -> None:
    jwt = await client.token()
    gate, arrived = asyncio.Event(), asyncio.Event()
    client.kbs.faults.on("resource", Fault(Kind.HOLD, times=1, gate=gate, arrived=arrived))
    waiting = asyncio.ensure_future(client.get(jwt))
    await arrived.wait()
    assert (await client.get(jwt))[0].status == 200
    assert not waiting.done()
    gate.set()
    assert (await waiting)[0].status == 200

    arrived.clear()
    client.kbs.faults.on("resource", Fault(Kind.HOLD, gate=asyncio.Event(), arrived=arrived))
    waiting = asyncio.ensure_future(client.get(jwt))
    await arrived.wait()
    await client.kbs.stop()
    with pytest.raises(aiohttp.ClientError):
        await waiting


@pytest.mark.parametrize("size", [0, 20, 10_000_000])
async def test_connections_are_reset_before_or_within_an_answer(client: Client, size: int) -> None:
    jwt = await client.token()
    # Not times=1: aiohttp's client repeats a GET by itself when a kept connection breaks before the head.
    client.kbs.faults.on("resource", Fault(Kind.RESET, size=size))
    with pytest.raises((aiohttp.ClientError, ConnectionResetError)):
        await client.get(jwt)
    client.kbs.faults.clear()
    assert (await client.get(jwt))[0].status == 200


async def test_answers_that_are_not_the_brokers(client: Client) -> None:
    on = client.kbs.faults.on
    on("auth", Fault(Kind.GARBAGE, times=1))
    on("auth", Fault(Kind.STATUS, times=1, status=502, body=b"<html>", content_type="text/html"))
    on("auth", Fault(Kind.STATUS, times=1, status=503, body=b"", content_type=None))
    on("auth", Fault(Kind.PROBLEM, times=1, problem="PolicyEngineError", detail="x"))
    on("auth", Fault(Kind.REDIRECT, times=1, to="http://127.0.0.1:1/elsewhere"))
    on("auth", Fault(Kind.VERSION_MISMATCH, times=1))
    seen = [await client.send("POST", "/kbs/v0/auth", json=REQUEST) for _ in range(7)]
    assert [reply.status for reply, _ in seen] == [200, 502, 503, 401, 307, 401, 200]
    assert seen[0][1].startswith(b"\xff")
    assert (seen[1][0].content_type, seen[1][1]) == ("text/html", b"<html>")
    assert json.loads(seen[3][1]) == {"type": PROBLEM + "PolicyEngineError", "detail": "x"}
    assert seen[4][0].headers["Location"] == "http://127.0.0.1:1/elsewhere"
    assert b"KBS Client Protocol Version Mismatch: expect =0.5.0 while the request is 0.4.0" in seen[5][1]


async def test_slow_late_and_oversized_bodies(client: Client) -> None:
    jwt = await client.token()
    faults = client.kbs.faults
    faults.on("resource", Fault(Kind.DRIP, times=1, size=100))
    faults.on("resource", Fault(Kind.DELAY, times=1, seconds=0.01))
    faults.on("resource", Fault(Kind.OVERSIZED, times=1, size=300_000))
    for _ in range(2):
        reply, body = await client.get(jwt)
        assert client.guest.decrypt(body) == b"attested secret"
    reply, body = await client.get(jwt)
    assert reply.headers["Transfer-Encoding"] == "chunked"
    assert json.loads(body) == "x" * 300_000
    faults.on("resource", Fault(Kind.OVERSIZED, times=1, size=1 << 40))
    headers = {"Authorization": f"Bearer {jwt}"}
    async with client.http.get(client.kbs.url + RESOURCE, headers=headers) as stream:
        assert await stream.content.readexactly(1000)  # and hangs up in the middle
    assert (await client.get(jwt))[0].status == 200


async def test_faults_of_tokens_and_sessions(client: Client) -> None:
    faults = client.kbs.faults
    faults.on("attest", Fault(Kind.EXPIRED_TOKEN, times=1))
    reply, _ = await client.get(await client.token())
    assert reply.status == 401
    faults.on("attest", Fault(Kind.HUGE_TOKEN, times=1, size=60_000))
    huge = await client.token()
    assert (await client.get(huge))[0].status == 200
    faults.on("auth", Fault(Kind.DROP_COOKIE, times=1))
    reply, _ = await client.send("POST", "/kbs/v0/auth", json=REQUEST)
    assert (reply.status, "Set-Cookie" in reply.headers) == (200, False)
    faults.on("attest", Fault(Kind.FORGET_SESSIONS, times=1))
    assert (await client.attest(*await client.auth()))[0].status == 401
    faults.on("resource", Fault(Kind.ROTATE_SIGNER, times=1))
    reply, body = await client.get(huge)
    assert json.loads(body)["type"] == PROBLEM + "TokenVerifierError"
    assert (await client.get(await client.token()))[0].status == 200


# --- life ------------------------------------------------------------------------------------------


async def test_tls(client: Client) -> None:
    authority = pki.Authority()
    server = authority.issue()
    async with DevKbs(tls=server.context()) as kbs:
        assert kbs.url.startswith("https://127.0.0.1:")
        client.kbs = kbs
        trust = aiohttp_context(authority.pem)
        reply, _ = await client.send("POST", "/kbs/v0/auth", json=REQUEST, tls=trust)
        assert reply.status == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await client.send("POST", "/kbs/v0/auth", json=REQUEST, tls=aiohttp_context(pki.Authority().pem))
        assert (kbs.counters["connections"], kbs.counters["requests"]) == (2, 1)


def aiohttp_context(pem: str) -> ssl.SSLContext:
    import ssl  # noqa: PLC0415

    return ssl.create_default_context(cadata=pem)


async def test_it_warns_and_stays_on_loopback(caplog: pytest.LogCaptureFixture) -> None:
    kbs = DevKbs(Settings(trustee_default_policy=True))
    for host in ("0.0.0.0", "::", "", "192.0.2.1", "kbs.example"):
        with pytest.raises(AgentError) as caught:
            await kbs.start(host)
        assert caught.value.code is ErrorCode.CONFIG_INVALID
    with caplog.at_level(logging.WARNING):
        await kbs.start("localhost")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "development and tests only" in caplog.text
    assert "proves nothing" in caplog.text
    assert kbs.url.startswith("http://127.0.0.1:")
    with pytest.raises(AgentError):
        await kbs.start()
    await kbs.stop()
    await kbs.stop()


async def test_another_address_needs_to_be_asked_for_and_closes_administration(client: Client) -> None:
    kbs = DevKbs()
    await kbs.start("0.0.0.0", allow_remote=True)
    try:
        url = f"http://127.0.0.1:{kbs.port}/kbs/v0/resource/default/key/2"
        async with client.http.post(url, data=b"x") as reply:
            assert reply.status == 401
            assert "AdminAuthInitialization" in await reply.text()
    finally:
        await kbs.stop()


async def test_state_outlives_a_restart_on_the_same_port(client: Client) -> None:
    jwt, kbs = await client.token(), client.kbs
    port = kbs.port
    await kbs.stop()
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.get(jwt)
    await kbs.start(port=port)
    assert (await client.get(jwt))[0].status == 200
