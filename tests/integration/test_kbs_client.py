"""The broker's HTTP client: what it sends, and what it makes of answers, over loopback."""

from __future__ import annotations

import gzip
import math
from typing import TYPE_CHECKING

import pytest

from agent.config import limits
from agent.config.uri import parse_uri
from agent.errors import ErrorCode
from tests.integration.raw_kbs import (
    CLOCK,
    COOKIE,
    TOKEN,
    URI,
    RawServer,
    clients,
    counted,
    failure,
    plain,
    raw_server,
    reply,
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


# --- what is sent ---------------------------------------------------------------------------------
async def test_the_handshake_on_the_wire(client_of: Callable[..., KbsClient]) -> None:
    challenge = reply(b'{"nonce":"bm9uY2U="}', head=f"content-type: application/json\r\n{COOKIE}")
    async with raw_server(challenge, reply(b'{"token":"x"}')) as server:
        client = client_of(f"{plain(server)}/base//")
        before = CLOCK.boot()
        body, session = await client.auth(b'{"a":1}', soon())
        assert body == b'{"nonce":"bm9uY2U="}'
        assert session.cookie.reveal() == b"6b0f4d6c9a5d4b6e8d7a2f1c3e5b7a90"
        assert session.endpoint == f"{plain(server)}/base"
        assert before + 300 <= session.until <= CLOCK.boot() + 300
        assert await client.attest(b'{"b":2}', session, soon()) == b'{"token":"x"}'
        assert counted(client, "auth", "ok") == counted(client, "attest", "ok") == 1
    first, second = server.heads
    assert first.startswith("POST /base/kbs/v0/auth HTTP/1.1\r\n")
    assert second.startswith("POST /base/kbs/v0/attest HTTP/1.1\r\n")
    assert "User-Agent: attestation-agent-kbs-client/0.1.0\r\n" in first
    assert "Content-Type: application/json\r\n" in first
    assert "Accept-Encoding: identity\r\n" in first
    assert "Cookie" not in first
    assert "Cookie: kbs-session-id=6b0f4d6c9a5d4b6e8d7a2f1c3e5b7a90\r\n" in second
    assert server.bodies == [b'{"a":1}', b'{"b":2}']
    assert server.connections == 1


@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("kbs:///default/key/1", "resource/default/key/1"),
        ("kbs:///default/key/%31", "resource/default/key/%31"),
        ("kbs+ext:///a%20b/c%2Bd+e?x=%2F&y=a+b&x=~!", "ext/a%20b/c%2Bd+e?x=%2F&y=a+b&x=~!"),
        ("kbs+ext:///%e4%b8%ad?q", "ext/%e4%b8%ad?q"),
    ],
)
async def test_path_and_query_leave_as_they_are_written(
    client_of: Callable[..., KbsClient], uri: str, target: str
) -> None:
    async with raw_server(reply(b"value", head="Content-Type: Text/XML; charset=x\r\n")) as server:
        assert await client_of(plain(server)).get(parse_uri(uri), TOKEN, soon()) == ("text/xml", b"value")
    assert server.heads[0].startswith(f"GET /kbs/v0/{target} HTTP/1.1\r\n")
    assert "Authorization: Bearer canary.token.value\r\n" in server.heads[0]
    assert "Cookie" not in server.heads[0]


async def test_cookies_are_kept_by_nobody(client_of: Callable[..., KbsClient]) -> None:
    async with raw_server(reply(head=COOKIE)) as server:
        client = client_of(plain(server))
        await client.get(URI, TOKEN, soon())
        await client.get(URI, TOKEN, soon())
    assert not any("Cookie" in head for head in server.heads)


@pytest.mark.parametrize(
    "head",
    [
        "",
        "Set-Cookie: other=1\r\n",
        "Set-Cookie: kbs-session-id=\r\n",
        "Set-Cookie: kbs-session-id=a b\r\n",
        'Set-Cookie: kbs-session-id="abc"\r\n',
        "Set-Cookie: kbs-session-id=a,b\r\n",
        f"Set-Cookie: kbs-session-id={'a' * 300}\r\n",
    ],
)
async def test_a_wrong_cookie_is_a_bad_answer(client_of: Callable[..., KbsClient], head: str) -> None:
    async with raw_server(reply(b"{}", head=head)) as server:
        assert (await failure(client_of(plain(server)), call="auth")).code is ErrorCode.KBS_BAD_RESPONSE


async def test_the_environment_names_no_proxy(
    client_of: Callable[..., KbsClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with raw_server(reply(b"value")) as server:
        assert (await client_of(plain(server)).get(URI, TOKEN, soon()))[1] == b"value"


# --- configuration --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("", ErrorCode.KBS_NOT_CONFIGURED),
        ("///", ErrorCode.KBS_NOT_CONFIGURED),
        ("broker.example", ErrorCode.CONFIG_INVALID),
        ("ftp://broker.example", ErrorCode.CONFIG_INVALID),
        ("cc_kbc::http://broker.example", ErrorCode.CONFIG_INVALID),
        ("http:broker.example", ErrorCode.CONFIG_INVALID),
        ("http://", ErrorCode.CONFIG_INVALID),
        ("http://user:canary@broker.example", ErrorCode.CONFIG_INVALID),
        ("http://broker.example?x=1", ErrorCode.CONFIG_INVALID),
        ("http://broker.example#f", ErrorCode.CONFIG_INVALID),
        ("http://broker.example:0", ErrorCode.CONFIG_INVALID),
        ("http://broker.example:65536", ErrorCode.CONFIG_INVALID),
        ("http://broker.example:99999", ErrorCode.CONFIG_INVALID),
        ("http://bro ker.example", ErrorCode.CONFIG_INVALID),
        ("http://broker.example\\@other", ErrorCode.CONFIG_INVALID),
        ("http://[::zz]", ErrorCode.CONFIG_INVALID),
        ("http://[:::1]", ErrorCode.CONFIG_INVALID),
        ("http://br\u00f6ker.example", ErrorCode.CONFIG_INVALID),
    ],
)
async def test_urls_that_are_none(client_of: Callable[..., KbsClient], url: str, code: ErrorCode) -> None:
    assert (await failure(client_of(url))).code is code


async def test_https_can_be_required(client_of: Callable[..., KbsClient]) -> None:
    async with raw_server(reply()) as server:
        client = client_of(plain(server), require_tls=True)
        assert (await failure(client)).code is ErrorCode.KBS_TLS_REQUIRED
        assert server.connections == 0


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "127.0.0.1:1", "http://a b", "http://"])
async def test_proxies_that_are_none(client_of: Callable[..., KbsClient], proxy: str) -> None:
    client = client_of("http://127.0.0.1:1", proxy=proxy)
    assert (await failure(client)).code is ErrorCode.CONFIG_INVALID


# --- answers that are no good ---------------------------------------------------------------------
@pytest.mark.parametrize("call", ["get", "auth", "attest"])
@pytest.mark.parametrize(
    ("script", "code"),
    [
        (b"canary garbage\r\n\r\n\0close", ErrorCode.KBS_BAD_RESPONSE),
        (b"SSH-2.0-OpenSSH_9.9 canary\r\n\0hold", ErrorCode.KBS_BAD_RESPONSE),
        (b"HTTP/1.1 200 OK\r\nContent-Length: canary\r\n\r\n", ErrorCode.KBS_BAD_RESPONSE),
        (
            b"HTTP/1.1 200 OK\r\nA: " + b"x" * (limits.KBS_MAX_HEAD + 10) + b"\r\n\r\n",
            ErrorCode.KBS_BAD_RESPONSE,
        ),
        (b"HTTP/1.1 200 OK\r\n" + b"A: x\r\n" * 1000 + b"\r\n", ErrorCode.KBS_BAD_RESPONSE),
        (reply(gzip.compress(bytes(10**7)), head="Content-Encoding: gzip\r\n"), ErrorCode.KBS_BAD_RESPONSE),
        (reply(b"canary", "502 Bad Gateway", "Content-Encoding: br\r\n"), ErrorCode.KBS_BUSY),
        (reply(b"<html>canary", "503 Unavailable"), ErrorCode.KBS_BUSY),
        (reply(bytes(limits.KBS_MAX_PROBLEM + 1), "503 Unavailable"), ErrorCode.KBS_BUSY),
        (reply(b"", "429 Slow down"), ErrorCode.KBS_BUSY),
        (reply(b"<html>canary", "404 Not Found"), ErrorCode.KBS_BAD_RESPONSE),
        (reply(b"", "204 No Content"), ErrorCode.KBS_BAD_RESPONSE),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf\0close", ErrorCode.KBS_UNREACHABLE),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf\0reset", ErrorCode.KBS_UNREACHABLE),
        (b"\0reset", ErrorCode.KBS_UNREACHABLE),
        (b"\0close", ErrorCode.KBS_UNREACHABLE),
    ],
    ids=range(16),
)
async def test_bad_answers(
    client_of: Callable[..., KbsClient], call: str, script: bytes, code: ErrorCode
) -> None:
    async with raw_server(script) as server:
        client = client_of(plain(server))
        assert (await failure(client, call=call)).code is code
        endpoint = {"get": "resource"}.get(call, call)
        assert counted(client, endpoint, code.name) == 1


@pytest.mark.parametrize(
    ("call", "largest"),
    [("auth", limits.KBS_MAX_CHALLENGE), ("attest", limits.KBS_MAX_TOKEN), ("get", limits.KBS_MAX_RESOURCE)],
)
@pytest.mark.parametrize("chunked", [False, True])
async def test_too_large_answers_end_the_connection(
    client_of: Callable[..., KbsClient],
    call: str,
    largest: int,
    chunked: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if call == "get":  # 16 MiB would only slow the test down
        largest = 1_000_000
        monkeypatch.setattr(limits, "KBS_MAX_RESOURCE", largest)
    size = largest + 2_000_000
    if chunked:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % size
        script = head + b"x" * size + b"\r\n0\r\n\r\n"
    else:
        script = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"\0hold"
    async with raw_server(script) as server:
        client = client_of(plain(server))
        assert (await failure(client, call=call)).code is ErrorCode.KBS_RESPONSE_TOO_LARGE
        assert (await failure(client, call=call)).code is ErrorCode.KBS_RESPONSE_TOO_LARGE
        assert server.connections == 2


async def test_an_answer_of_the_largest_size_is_taken(
    client_of: Callable[..., KbsClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "KBS_MAX_RESOURCE", 1_000_000)
    async with raw_server(reply(b"x" * 1_000_000)) as server:
        assert len((await client_of(plain(server)).get(URI, TOKEN, soon()))[1]) == 1_000_000


async def test_a_problem_is_read_whatever_its_content_type(client_of: Callable[..., KbsClient]) -> None:
    body = b'{"type":"https://x/errors/PolicyDeny","detail":"Access denied by policy"}'
    async with raw_server(reply(body, "401 Unauthorized", "")) as server:
        error = await failure(client_of(plain(server)))
    assert (error.code, error.problem) == (ErrorCode.RESOURCE_DENIED, "PolicyDeny")


# --- redirects ------------------------------------------------------------------------------------
def redirect(to: str, status: int = 307) -> bytes:
    return reply(b"", f"{status} Elsewhere", f"Location: {to}\r\n")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_elsewhere_is_refused(client_of: Callable[..., KbsClient], status: int) -> None:
    async with raw_server(reply(b"stolen")) as thief:
        async with raw_server(redirect(f"{plain(thief)}/x", status)) as server:
            assert (await failure(client_of(plain(server)))).code is ErrorCode.KBS_REDIRECT_REFUSED
        assert thief.connections == 0


@pytest.mark.parametrize(
    "to",
    [
        "http://localhost:{port}/x",
        "https://127.0.0.1:{port}/x",
        "http://127.0.0.1/x",
        "//127.0.0.2:{port}/x",
        "http://user@127.0.0.1:{port}/x",
        "http://127.0.0.1:{port}\\@other/",
        "http://127.0.0.1:{port}@other/",
        "ftp://127.0.0.1:{port}/x",
        "http://[bad",
        "",
    ],
)
async def test_a_redirect_to_a_lookalike_is_refused(client_of: Callable[..., KbsClient], to: str) -> None:
    server = RawServer(b"")
    await server.start()
    server.script = [redirect(to.format(port=server.port))]
    assert (await failure(client_of(plain(server)))).code is ErrorCode.KBS_REDIRECT_REFUSED
    assert len(server.heads) == 1
    await server.stop()


@pytest.mark.parametrize("call", ["auth", "attest"])
async def test_a_post_follows_no_redirect(client_of: Callable[..., KbsClient], call: str) -> None:
    async with raw_server(redirect("/elsewhere"), reply()) as server:
        assert (await failure(client_of(plain(server)), call=call)).code is ErrorCode.KBS_REDIRECT_REFUSED
    assert len(server.heads) == 1


RESOURCE = "/kbs/v0/resource/default/key/1"


@pytest.mark.parametrize("to", [RESOURCE, f"/moved{RESOURCE}", f"http://127.0.0.1:{{port}}/moved{RESOURCE}"])
async def test_a_redirect_within_the_broker_is_followed_once(
    client_of: Callable[..., KbsClient], to: str
) -> None:
    async with raw_server(b"") as server:
        there = redirect(to.format(port=server.port))
        server.script = [there, reply(b"value"), there, there, reply(b"too late")]
        client = client_of(plain(server))
        assert (await client.get(URI, TOKEN, soon()))[1] == b"value"
        assert server.heads[1].startswith(f"GET {to.removeprefix('http://127.0.0.1:{port}')} HTTP/1.1\r\n")
        assert (await failure(client)).code is ErrorCode.KBS_REDIRECT_REFUSED
        assert len(server.heads) == 4


@pytest.mark.parametrize(
    "to", ["/moved/key", "/kbs/v0/resource/default/key/2", f"{RESOURCE}?a=1", f"/x/..{RESOURCE}", "1"]
)
async def test_a_redirect_to_another_resource_is_refused(
    client_of: Callable[..., KbsClient], to: str
) -> None:
    async with raw_server(redirect(to), reply(b"another secret")) as server:
        assert (await failure(client_of(plain(server)))).code is ErrorCode.KBS_REDIRECT_REFUSED
        assert len(server.heads) == 1


async def test_a_redirect_that_sets_a_cookie_is_followed_with_it(client_of: Callable[..., KbsClient]) -> None:
    there = reply(b"", "302 Found", f"Location: {RESOURCE}\r\nSet-Cookie: route=a1; Path=/; HttpOnly\r\n")
    async with raw_server(there, reply(b"value")) as server:
        client = client_of(plain(server))
        assert (await client.get(URI, TOKEN, soon()))[1] == b"value"
        assert "Cookie" not in server.heads[0]
        assert "Cookie: route=a1\r\n" in server.heads[1]
        assert "Authorization: Bearer canary.token.value\r\n" in server.heads[1]
        await client.get(URI, TOKEN, soon())
        assert "Cookie" not in server.heads[2]  # a token needs no cookie: the next request begins without
