"""Brokers behind a balancer that finds them again by a cookie, over loopback."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from agent.config import limits
from agent.config.model import Kbs, KbsServer, KeyAlgorithm
from agent.devkit.kbs import DevKbs, Fault, Kind
from agent.devkit.sample import SampleAttester
from agent.kbs.client import KbsClient
from agent.kbs.resources import ResourceClient
from agent.kbs.session import Session
from agent.kbs.token import decode_token, encode_token
from agent.observe.metrics import Metrics
from agent.secret import Secret
from agent.tee.evidence_source import GuestEvidence
from tests.integration.raw_kbs import (
    CLOCK,
    TOKEN,
    URI,
    RawServer,
    clients,
    plain,
    raw_server,
    reply,
    session_at,
    soon,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agent.kbs.token import KbsToken

pytestmark = pytest.mark.integration

HUGE = 40 * limits.KIB
NOISE = "".join(f"Set-Cookie: other{number}={'v' * 40}; Path=/\r\n" for number in range(9))


class Balancer(RawServer):
    """Requests without its cookie go to its brokers in turn, those with it to the broker that it names.

    With ``fresh`` each answer names the broker anew, and only the newest name counts.
    """

    def __init__(self, *brokers: DevKbs, fresh: bool = False, noise: str = "") -> None:
        super().__init__(b"")
        self.fresh = fresh
        self.noise = noise
        self.strays = 0
        self._turn = itertools.cycle(brokers)
        self._names: dict[str, DevKbs] = {}

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = await reader.readexactly(int(lines.get("Content-Length", "0")))
        cookies = dict(pair.partition("=")[::2] for pair in lines.get("Cookie", "").split("; "))
        name = cookies.get("SERVERID", "")
        broker = self._names.get(name)
        self.strays += broker is None
        if broker is None or self.fresh:
            broker = broker or next(self._turn)
            self._names.pop(name, None)
            name = secrets.token_hex(8)
            self._names[name] = broker
        there, back = await asyncio.open_connection("127.0.0.1", broker.port)
        back.write(head[:-2].encode() + b"Connection: close\r\n\r\n" + body)
        status, _, rest = (await there.read()).partition(b"\r\n")
        back.close()
        set_cookies = f"{self.noise}Set-Cookie: SERVERID={name}; path=/; HttpOnly\r\n"
        writer.write(status + b"\r\n" + set_cookies.encode() + rest)
        await writer.drain()
        return False


class Guest:
    def __init__(self, *urls: str) -> None:
        self.metrics = Metrics()
        settings = Kbs(url=urls[0], endpoints=tuple(KbsServer(url) for url in urls) if urls[1:] else ())
        self.client = KbsClient(settings, CLOCK, self.metrics, chance=lambda: 0.02)
        evidence = GuestEvidence(SampleAttester(), (), None)
        self.session = Session(self.client, evidence, KeyAlgorithm.EC_P256, CLOCK, self.metrics)
        self.resources = ResourceClient(self.client, self.session, self.metrics)

    async def get(self) -> bytes:
        return (await self.resources.get(URI, soon())).reveal()

    def sent(self, kind: str) -> float:
        found = self.metrics.registry.get_sample_value("coco_kbs_credentials_total", {"kind": kind})
        return found or 0.0

    async def close(self) -> None:
        await self.session.close()
        await self.client.close()


@asynccontextmanager
async def behind(balancer_of: Callable[..., Balancer], *more: str) -> AsyncIterator[tuple[Balancer, Guest]]:
    """A guest whose token is too large for a request, and two brokers that know nothing of each other."""
    async with AsyncExitStack() as stack:
        brokers = [await stack.enter_async_context(DevKbs()) for _ in range(2)]
        for kbs in brokers:
            kbs.put("default/key/1", b"attested secret")
            kbs.faults.on("attest", Fault(Kind.HUGE_TOKEN, size=HUGE))
        balancer = balancer_of(*brokers)
        await balancer.start()
        stack.push_async_callback(balancer.stop)
        guest = Guest(plain(balancer), *more)
        stack.push_async_callback(guest.close)
        yield balancer, guest


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("noise", ["", NOISE])
async def test_a_guest_attests_and_fetches_behind_cookie_affinity(*, fresh: bool, noise: str) -> None:
    async with behind(lambda *brokers: Balancer(*brokers, fresh=fresh, noise=noise)) as (balancer, guest):
        for _ in range(3):
            assert await guest.get() == b"attested secret"
        assert (guest.sent("cookie"), guest.sent("bearer")) == (3, 0)
        assert balancer.strays == 1  # /auth, and never again
        assert len(balancer.heads) == 5
        # A new handshake begins without cookies: the balancer chooses again.
        await guest.session.token(soon(), refused=await guest.session.token(soon()))
        assert balancer.strays == 2
        assert await guest.get() == b"attested secret"


async def test_another_endpoint_never_sees_a_cookie() -> None:
    async with raw_server(reply(b"value")) as third, behind(Balancer, plain(third)) as (balancer, guest):
        assert await guest.get() == b"attested secret"
        await balancer.stop()
        assert await guest.get() == b"value"
    assert len(third.heads) == 1
    assert "Authorization: Bearer" in third.heads[0]
    assert "Cookie" not in third.heads[0]


async def test_cookies_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    noise = "Set-Cookie: canary-name=canary-value; Path=/\r\n"
    async with behind(lambda *brokers: Balancer(*brokers, noise=noise)) as (balancer, guest):
        assert await guest.get() == b"attested secret"
        token = await guest.session.token(soon())
        assert "canary-value" in balancer.heads[-1]
        text = f"{token!r} {token.session!r}"
    text += "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "canary" not in text
    assert "SERVERID" not in text


# --- which answers set them -----------------------------------------------------------------------
@pytest.fixture
async def client_of() -> AsyncIterator[Callable[..., KbsClient]]:
    async with clients() as make:
        yield make


def large(url: str) -> KbsToken:
    return replace(TOKEN, jwt=Secret(b"canary." + b"x" * 40_000), session=session_at(url))


def sets(*cookies: str) -> str:
    return "Content-Type: text/xml\r\n" + "".join(f"Set-Cookie: {cookie}\r\n" for cookie in cookies)


def cookie_of(head: str) -> str:
    return next((line[8:] for line in head.split("\r\n") if line.startswith("Cookie: ")), "")


async def test_every_answer_of_the_session_counts(client_of: Callable[..., KbsClient]) -> None:
    answers = (
        reply(b"{}", head=sets("kbs-session-id=abc", "a=1; Path=/")),
        reply(b"{}", head=sets("kbs-session-id=def", "b=2; Path=/")),
        reply(b"", "503 Busy", sets("a=3; Path=/", "c=4; Path=/")),
        reply(b"value", head=sets("c=; Path=/; Max-Age=0")),
        reply(b"value"),
    )
    async with raw_server(*answers) as server:
        client = client_of(plain(server))
        client._chance = lambda: 0.01
        _, session = await client.auth(b"{}", soon())
        await client.attest(b"{}", session, soon())
        token = replace(large(plain(server)), session=session)
        for _ in range(2):
            assert (await client.get(URI, token, soon()))[1] == b"value"
    assert [cookie_of(head) for head in server.heads] == [
        "",
        "kbs-session-id=abc; a=1",
        "kbs-session-id=def; a=1; b=2",
        "kbs-session-id=def; b=2; a=3; c=4",
        "kbs-session-id=def; b=2; a=3",
    ]


async def test_a_session_that_is_deleted_is_not_used_any_more(client_of: Callable[..., KbsClient]) -> None:
    gone = reply(b"value", head=sets("kbs-session-id=; Max-Age=0"))
    async with raw_server(gone, reply(b"value")) as server:
        client, token = client_of(plain(server)), large(plain(server))
        await client.get(URI, token, soon())
        await client.get(URI, token, soon())
    assert cookie_of(server.heads[0]) == "kbs-session-id=abc"
    assert "Cookie" not in server.heads[1]
    assert "Authorization" in server.heads[1]


async def test_a_redirect_moves_a_session_to_another_broker(client_of: Callable[..., KbsClient]) -> None:
    there = reply(b"", "307 Over there", f"Location: /kbs/v0/{URI.request_target}\r\n{sets('lb=2; Path=/')}")
    async with raw_server(there, reply(b"value")) as server:
        client, token = client_of(plain(server)), large(plain(server))
        assert (await client.get(URI, token, soon()))[1] == b"value"
        await client.get(URI, token, soon())
    assert [cookie_of(head) for head in server.heads] == [
        "kbs-session-id=abc",
        "kbs-session-id=abc; lb=2",
        "kbs-session-id=abc; lb=2",
    ]


async def test_a_hub_in_another_process_has_the_cookies_too(client_of: Callable[..., KbsClient]) -> None:
    challenge = reply(b"{}", head=sets("lb=1; Path=/; HttpOnly", "kbs-session-id=abc"))
    async with raw_server(challenge, reply(b"value")) as server:
        attester, hub = client_of(plain(server)), client_of(plain(server))
        _, session = await attester.auth(b"{}", soon())
        jwt = Secret(b"e30.e30." + b"x" * 40_000)
        body = encode_token(replace(TOKEN, jwt=jwt, session=session), CLOCK)
        assert (await hub.get(URI, decode_token(body.reveal(), CLOCK), soon()))[1] == b"value"
    assert cookie_of(server.heads[1]) == "kbs-session-id=abc; lb=1"
