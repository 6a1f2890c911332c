"""Answers within the deadline, and what used the time, over loopback."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from agent.config.model import Hub as HubSettings
from agent.config.model import Kbs, KeyAlgorithm
from agent.devkit import pki
from agent.devkit.kbs import DevKbs, Fault, Kind
from agent.devkit.sample import SampleAttester
from agent.errors import AgentError, ErrorCode
from agent.hub.hub import Hub
from agent.kbs.client import KbsClient
from agent.kbs.resources import ResourceClient
from agent.kbs.session import Session
from agent.observe.audit import Audit
from agent.observe.metrics import Metrics
from agent.observe.redact import ResourceNames
from agent.serve.front import Front
from agent.tee.evidence_source import GuestEvidence
from tests.integration.raw_kbs import (
    CLOCK,
    TOKEN,
    URI,
    RawServer,
    black_hole,
    clients,
    failure,
    plain,
    raw_server,
    reply,
    secure,
    soon,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from agent.http.resolver import Address, Lookup

pytestmark = pytest.mark.integration

SLACK = 0.15
"""Seconds for a machine that does other things at the same time; the rest of the promise is 5 %."""

LIMITS = [0.5, 1.0, 2.0]


class Silent:
    """A name server that never answers."""

    def __init__(self) -> None:
        self.asked = 0

    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        self.asked += 1
        await asyncio.Event().wait()
        raise AssertionError


async def each_limit(check: Callable[[float], Awaitable[None]]) -> None:
    """At the same time, since each takes as long as it says."""
    await asyncio.gather(*(patiently(check, limit) for limit in LIMITS))


async def patiently(check: Callable[[float], Awaitable[None]], limit: float) -> None:
    """Again with twice the time, then twice that: a busy machine hides what a defect never lets come."""
    for factor in (1, 2):
        with suppress(AssertionError):
            return await check(factor * limit)
    return await check(4 * limit)


class Watch:
    """Measures how long an answer took."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.began = time.monotonic()

    def check(self) -> None:
        took = time.monotonic() - self.began
        assert took <= self.limit * 1.05 + SLACK, f"{took:.3f} s for a deadline of {self.limit} s"


@pytest.fixture
async def client_of() -> AsyncIterator[Callable[..., KbsClient]]:
    async with clients() as make:
        yield make


def drip(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" + body + RawServer.HOLD


# --- one exchange ---------------------------------------------------------------------------------
Codes = dict[str, ErrorCode]

HANGS: Codes = {
    "get": ErrorCode.KBS_TIMEOUT,
    "auth": ErrorCode.KBS_TIMEOUT,
    "attest": ErrorCode.APPRAISAL_TIMEOUT,
}


def everywhere(code: ErrorCode) -> Codes:
    return dict.fromkeys(HANGS, code)


async def ends(client: KbsClient, codes: Codes, says: str) -> None:
    """Every request ends in time, with its code."""

    async def check(limit: float) -> None:
        for_limit = soon(limit)
        watch = Watch(limit)
        errors = await asyncio.gather(*(failure(client, for_limit, call=call) for call in codes))
        watch.check()
        assert [error.code for error in errors] == list(codes.values())
        assert all(says in error.detail for error in errors)

    await each_limit(check)


async def test_a_black_hole_is_unreachable(client_of: Callable[..., KbsClient]) -> None:
    async with black_hole() as port:
        client = client_of(f"http://127.0.0.1:{port}")
        await ends(client, everywhere(ErrorCode.KBS_UNREACHABLE), "connecting")


async def test_a_tls_handshake_that_does_not_end_is_named(client_of: Callable[..., KbsClient]) -> None:
    async with raw_server(RawServer.HOLD) as server:  # it takes the connection and speaks no TLS
        await ends(client_of(secure(server)), everywhere(ErrorCode.KBS_TLS_TIMEOUT), "TLS")


async def test_a_silent_name_server_is_a_dns_failure(client_of: Callable[..., KbsClient]) -> None:
    client = client_of("http://broker.example:8080", resolver=Silent())
    await ends(client, everywhere(ErrorCode.KBS_DNS_FAILED), "resolving")


@pytest.mark.parametrize("tls", [False, True])
async def test_a_broker_that_says_nothing_is_a_timeout(
    client_of: Callable[..., KbsClient], *, tls: bool
) -> None:
    identity = pki.self_signed()
    async with raw_server(RawServer.HOLD, tls=identity.context() if tls else None) as server:
        client = client_of(secure(server), pins=(identity.pin,)) if tls else client_of(plain(server))
        await ends(client, HANGS, "waiting for the broker's answer")


async def test_an_answer_that_drips_is_a_timeout(client_of: Callable[..., KbsClient]) -> None:
    async with raw_server(drip(b"slow")) as server:
        await ends(client_of(plain(server)), HANGS, "reading")


async def test_a_dead_name_server_is_asked_once_for_all(client_of: Callable[..., KbsClient]) -> None:
    resolver = Silent()
    client = client_of("http://broker.example:8080", resolver=resolver)
    errors = await asyncio.gather(*(failure(client, soon(0.3)) for _ in range(50)))
    errors.append(await failure(client, soon(0.3)))
    assert {error.code for error in errors} == {ErrorCode.KBS_DNS_FAILED}
    assert resolver.asked == 1  # each look-up would sit in a thread


async def test_callers_without_a_connection_hear_what_the_others_wait_for(
    client_of: Callable[..., KbsClient],
) -> None:
    async with black_hole() as port:
        client = client_of(f"http://127.0.0.1:{port}", connect_timeout=0.3)
        errors = await asyncio.gather(*(failure(client, soon(0.5)) for _ in range(40)))
    assert {error.code for error in errors} == {ErrorCode.KBS_UNREACHABLE}


# --- tries ----------------------------------------------------------------------------------------
async def test_a_broker_that_is_down_is_told_before_the_deadline(
    client_of: Callable[..., KbsClient],
) -> None:
    server = RawServer(b"")
    await server.start()
    await server.stop()
    # The reason, not the time.
    await ends(client_of(plain(server)), everywhere(ErrorCode.KBS_UNREACHABLE), "")


async def test_a_resource_is_asked_for_until_it_comes(client_of: Callable[..., KbsClient]) -> None:
    busy = reply(b"busy", "503 Service Unavailable")
    async with raw_server(busy, busy, RawServer.RESET, reply(b"value")) as server:
        client = client_of(plain(server))
        client._chance = lambda: 0.01
        assert await client.get(URI, TOKEN, soon()) == ("text/xml", b"value")
    assert len(server.heads) == 4


async def test_a_final_answer_is_not_asked_for_again(client_of: Callable[..., KbsClient]) -> None:
    denied = reply(b'{"type":"https://x/PolicyDeny","detail":"no"}', "401 Unauthorized")
    async with raw_server(denied) as server:
        assert (await failure(client_of(plain(server)), soon(20))).code is ErrorCode.RESOURCE_DENIED
    assert len(server.heads) == 1


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
async def test_retry_after_is_told_and_kept(client_of: Callable[..., KbsClient], status: str) -> None:
    later = reply(b"", status, "Retry-After: 30\r\n")
    async with raw_server(later) as server:
        watch = Watch(0.5)
        error = await failure(client_of(plain(server)), soon(20))
        watch.check()  # 20 s are not enough: nobody is kept waiting for nothing
    assert error.code is ErrorCode.KBS_BUSY
    assert error.retry_after == 30
    assert len(server.heads) == 1


# --- the whole way --------------------------------------------------------------------------------
@asynccontextmanager
async def front(
    url: str, resolver: Lookup | None = None
) -> AsyncIterator[Callable[[float], Awaitable[object]]]:
    metrics, kbs = Metrics(), Kbs(url=url)
    client = KbsClient(kbs, CLOCK, metrics, resolver=resolver)
    evidence = GuestEvidence(SampleAttester(), (), None)
    session = Session(client, evidence, KeyAlgorithm.EC_P256, CLOCK, metrics, endpoints=(url,))
    resources = ResourceClient(client, session, metrics)
    settings_of_hub = HubSettings(kbc="cc_kbc", kbs=kbs)
    hub = Hub(settings_of_hub, resources, metrics, clock=CLOCK, identity=lambda: session.identity)
    made = Front(hub=hub, attester=None, metrics=metrics, audit=Audit(ResourceNames(False)), clock=CLOCK)

    async def ask(limit: float) -> object:
        # Each asks for a resource of its own; what they share is the handshake.
        return await made.get_resource(made.call("rest", "test", limit), f"kbs:///default/key/{limit}")

    try:
        yield ask
    finally:
        await hub.close()
        await session.close()
        await client.close()


async def hears(url: str, code: ErrorCode, resolver: Callable[[], Lookup] | None = None) -> None:
    """The outermost caller hears this code in time, whatever its deadline."""

    async def check(limit: float) -> None:
        async with front(url, resolver() if resolver else None) as ask:
            watch = Watch(limit)
            with pytest.raises(AgentError) as caught:
                await ask(limit)
            watch.check()
            assert caught.value.code is code

    await each_limit(check)


async def test_the_caller_hears_of_a_black_hole() -> None:
    async with black_hole() as port:
        await hears(f"http://127.0.0.1:{port}", ErrorCode.KBS_UNREACHABLE)


async def test_the_caller_hears_of_a_dead_name_server() -> None:
    await hears("http://broker.example", ErrorCode.KBS_DNS_FAILED, Silent)


async def test_the_caller_hears_of_a_silent_tls_handshake() -> None:
    async with raw_server(RawServer.HOLD) as server:
        await hears(secure(server), ErrorCode.KBS_TLS_TIMEOUT)


@pytest.mark.parametrize(
    ("endpoint", "code"),
    [
        ("auth", ErrorCode.KBS_TIMEOUT),
        ("attest", ErrorCode.APPRAISAL_TIMEOUT),
        ("resource", ErrorCode.KBS_TIMEOUT),
    ],
)
@pytest.mark.parametrize("kind", [Kind.HOLD, Kind.DRIP])
async def test_the_caller_hears_of_a_broker_that_hangs(endpoint: str, code: ErrorCode, kind: Kind) -> None:
    async with DevKbs() as kbs:
        for limit in LIMITS:
            kbs.put(f"default/key/{limit}", b"value")
        kbs.faults.on(endpoint, Fault(kind, gate=asyncio.Event(), seconds=0.2))
        await hears(kbs.url, code)


async def test_who_cannot_wait_for_the_others_hears_the_same() -> None:
    async with black_hole() as port, front(f"http://127.0.0.1:{port}") as ask:

        async def check(limit: float) -> None:
            watch = Watch(limit)
            with pytest.raises(AgentError) as caught:
                await ask(limit)
            watch.check()
            assert caught.value.code is ErrorCode.KBS_UNREACHABLE

        async def together(limit: float) -> None:
            await asyncio.gather(check(4 * limit), check(limit), check(2 * limit))  # one handshake

        await patiently(together, 0.5)
