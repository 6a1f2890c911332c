"""Tokens that are too large for a request head: the session of the attestation stands for them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from agent.config import limits
from agent.config.model import Kbs, KeyAlgorithm
from agent.devkit.kbs import DevKbs, Fault, Kind, server
from agent.devkit.sample import SampleAttester
from agent.errors import AgentError, ErrorCode
from agent.kbs.client import KbsClient
from agent.kbs.resources import ResourceClient
from agent.kbs.session import Session
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

SMALL_HEAD = 8 * limits.KIB
HUGE = 200 * limits.KIB


class Guest:
    def __init__(self, url: str, limit: int) -> None:
        self.metrics = Metrics()
        self.client = KbsClient(Kbs(url=url, token_header_limit=limit), CLOCK, self.metrics)
        evidence = GuestEvidence(SampleAttester(), (), None)
        self.session = Session(self.client, evidence, KeyAlgorithm.EC_P256, CLOCK, self.metrics)
        self.resources = ResourceClient(self.client, self.session, self.metrics)

    async def get(self) -> bytes:
        return (await self.resources.get(URI, soon())).reveal()

    def sent(self, kind: str) -> float:
        found = self.metrics.registry.get_sample_value("coco_kbs_credentials_total", {"kind": kind})
        return found or 0.0


@asynccontextmanager
async def guest(kbs: DevKbs, size: int = HUGE, limit: int = limits.TOKEN_HEADER) -> AsyncIterator[Guest]:
    kbs.put("default/key/1", b"attested secret")
    if size:
        kbs.faults.on("attest", Fault(Kind.HUGE_TOKEN, size=size))
    made = Guest(kbs.url, limit)
    try:
        yield made
    finally:
        await made.session.close()
        await made.client.close()


@pytest.fixture
async def client_of() -> AsyncIterator[Callable[..., KbsClient]]:
    async with clients() as make:
        yield make


@pytest.fixture
async def small_head(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DevKbs]:
    """A broker behind a server that takes heads of 8 KiB."""
    monkeypatch.setattr(server, "HEAD_LIMIT", SMALL_HEAD)
    async with DevKbs() as kbs:
        yield kbs


async def test_a_huge_token_is_not_sent_at_all(small_head: DevKbs) -> None:
    async with guest(small_head) as agent:
        for _ in range(3):
            assert await agent.get() == b"attested secret"
        assert len((await agent.session.token(soon())).jwt) > HUGE
        assert (agent.sent("bearer"), agent.sent("cookie")) == (0, 3)
    assert [seen.cookie for seen in small_head.seen][-3:] == [True] * 3
    assert small_head.counters["attest"] == small_head.counters["auth"] == 1


async def test_a_server_that_takes_less_than_configured_is_found_out_once(small_head: DevKbs) -> None:
    async with guest(small_head, size=20 * limits.KIB) as agent:  # below our own limit, above the server's
        for _ in range(3):
            assert await agent.get() == b"attested secret"
        assert (agent.sent("bearer"), agent.sent("cookie")) == (1, 3)
    assert small_head.counters["attest"] == 1


async def test_many_readers_with_a_huge_token_attest_once(small_head: DevKbs) -> None:
    async with guest(small_head, limit=HUGE * 4) as agent:
        assert set(await asyncio.gather(*(agent.get() for _ in range(40)))) == {b"attested secret"}
    assert small_head.counters["attest"] == 1


async def test_a_small_token_goes_as_a_bearer(small_head: DevKbs) -> None:
    async with guest(small_head, size=0) as agent:
        assert await agent.get() == b"attested secret"
        assert (agent.sent("bearer"), agent.sent("cookie")) == (1, 0)


async def test_the_token_is_sent_when_the_session_is_gone() -> None:
    async with DevKbs() as kbs, guest(kbs, size=40 * limits.KIB) as agent:  # this server takes 128 KiB
        assert await agent.get() == b"attested secret"
        kbs.forget_sessions()
        assert await agent.get() == b"attested secret"
        assert await agent.get() == b"attested secret"
        # cookie, cookie refused and bearer, bearer at once
        assert (agent.sent("cookie"), agent.sent("bearer")) == (2, 2)
        assert kbs.counters["attest"] == 1


async def test_without_session_and_room_for_the_token_the_guest_attests_again(small_head: DevKbs) -> None:
    async with guest(small_head) as agent:
        assert await agent.get() == b"attested secret"
        small_head.forget_sessions()
        assert await agent.get() == b"attested secret"
        assert small_head.counters["attest"] == 2
        assert await agent.get() == b"attested secret"
        assert small_head.counters["attest"] == 2


async def test_a_broker_that_forgets_at_once_gets_two_attestations_and_no_more(small_head: DevKbs) -> None:
    async with guest(small_head) as agent:
        small_head.faults.on("resource", Fault(Kind.FORGET_SESSIONS))
        with pytest.raises(AgentError) as caught:
            await agent.get()
        assert caught.value.code is ErrorCode.TOKEN_REJECTED
        assert "too large" in caught.value.detail
    assert small_head.counters["attest"] == 1 + limits.RESOURCE_ATTESTATIONS


# --- servers that answer otherwise ----------------------------------------------------------------
def large(url: str | None) -> KbsToken:
    jwt = Secret(b"canary." + b"x" * 20_000)
    return replace(TOKEN, jwt=jwt, session=session_at(url) if url else None)


@pytest.mark.parametrize(
    "refusal",
    [
        reply(b"too large", "431 Request Header Fields Too Large"),
        reply(b"<html>", "400 Bad Request", "Content-Type: text/html\r\n"),
        RawServer.RESET,
        RawServer.CLOSE,
    ],
)
async def test_any_refusal_of_a_large_head_leads_to_the_cookie(
    client_of: Callable[..., KbsClient], refusal: bytes
) -> None:
    async with raw_server(b"") as there:
        there._next = lambda: refusal if "Authorization" in there.heads[-1] else reply(b"value")  # type: ignore[method-assign]
        client = client_of(plain(there))
        assert (await client.get(URI, large(plain(there)), soon()))[1] == b"value"
        asked = len(there.heads)
        assert (await client.get(URI, large(plain(there)), soon()))[1] == b"value"
    assert asked <= 3  # the HTTP library sends a request again when its connection was closed
    assert all("Cookie: kbs-session-id=abc" in head for head in there.heads[asked - 1 :])
    assert not any("Authorization" in head for head in there.heads[asked - 1 :])


async def test_a_problem_is_an_answer_however_large_the_token(client_of: Callable[..., KbsClient]) -> None:
    denied = reply(b'{"type":"https://x/InvalidRequestPath","detail":"no"}', "400 Bad Request")
    async with raw_server(denied) as there:
        client = client_of(plain(there))
        with pytest.raises(AgentError) as caught:
            await client.get(URI, large(plain(there)), soon())
    assert caught.value.code is ErrorCode.INVALID_URI
    assert len(there.heads) == 1


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:1", "http://elsewhere.example"])
async def test_the_cookie_never_goes_to_another_endpoint(
    client_of: Callable[..., KbsClient], url: str | None
) -> None:
    async with raw_server(reply(b"", "431 Request Header Fields Too Large")) as there:
        client = client_of(plain(there))
        with pytest.raises(AgentError) as caught:
            await client.get(URI, large(url), soon())
    assert caught.value.code is (ErrorCode.TOKEN_REJECTED if url else ErrorCode.KBS_BAD_RESPONSE)
    assert "canary" not in str(caught.value)
    assert not any("Cookie" in head for head in there.heads)
