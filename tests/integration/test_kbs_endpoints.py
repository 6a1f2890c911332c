"""Several endpoints of one broker, over loopback."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from agent.config.model import Kbs, KbsServer, KeyAlgorithm
from agent.devkit import pki
from agent.devkit.kbs import DevKbs, Fault, Kind
from agent.devkit.sample import SampleAttester
from agent.errors import AgentError, ErrorCode
from agent.kbs.client import KbsClient
from agent.kbs.endpoints import Health
from agent.kbs.resources import ResourceClient
from agent.kbs.session import Session
from agent.kbs.skew import ClockSkew
from agent.observe.metrics import Metrics
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
    from collections.abc import AsyncIterator, Callable

    from agent.clock import Deadline

pytestmark = pytest.mark.integration


@pytest.fixture
async def client_of() -> AsyncIterator[Callable[..., KbsClient]]:
    async with clients() as make:
        yield make


class Guest:
    def __init__(self, *servers: KbsServer, home: str = "") -> None:
        self.metrics = Metrics()
        settings = Kbs(url=servers[0].url, endpoints=servers)
        self.client = KbsClient(settings, CLOCK, self.metrics, chance=lambda: 0.02)
        attests_at = self.client if not home else KbsClient(Kbs(url=home), CLOCK, self.metrics)
        self.clients = {self.client, attests_at}
        evidence = GuestEvidence(SampleAttester(), (), None)
        self.session = Session(
            attests_at, evidence, KeyAlgorithm.EC_P256, CLOCK, self.metrics, chance=lambda: 0.02
        )
        self.resources = ResourceClient(self.client, self.session, self.metrics)

    async def get(self, deadline: Deadline | None = None) -> bytes:
        return (await self.resources.get(URI, deadline or soon())).reveal()

    def health(self) -> list[Health]:
        return [endpoint.breaker.health() for endpoint in self.client._endpoints.all]


@asynccontextmanager
async def guest(*urls: str, home: str = "") -> AsyncIterator[Guest]:
    made = Guest(*(KbsServer(url) for url in urls), home=home)
    try:
        yield made
    finally:
        await made.session.close()
        for client in made.clients:
            await client.close()


@pytest.fixture
async def two() -> AsyncIterator[tuple[DevKbs, DevKbs]]:
    """Two brokers that know each other's tokens and the same secret."""
    async with DevKbs() as first, DevKbs() as second:
        for kbs, other in ((first, second), (second, first)):
            kbs.put("default/key/1", b"attested secret")
            kbs.trust(other.signer)
        yield first, second


async def test_the_first_one_is_asked_as_long_as_it_is_well(two: tuple[DevKbs, DevKbs]) -> None:
    first, second = two
    async with guest(first.url, second.url) as agent:
        assert [await agent.get() for _ in range(3)] == [b"attested secret"] * 3
    assert first.counters["requests"] == 5
    assert second.counters["requests"] == 0


async def test_a_handshake_stays_at_one_endpoint(two: tuple[DevKbs, DevKbs]) -> None:
    first, second = two
    async with guest(first.url, second.url) as agent:
        first.faults.on("auth", Fault(Kind.STATUS, status=503, times=1))
        assert await agent.get() == b"attested secret"
    assert second.counters["attest_ok"] == second.counters["auth_ok"] == 1
    assert first.counters["attest"] == 0


async def test_one_that_dies_between_auth_and_attest_is_left_for_the_next(two: tuple[DevKbs, DevKbs]) -> None:
    first, second = two
    arrived = asyncio.Event()
    first.faults.on("attest", Fault(Kind.HOLD, gate=asyncio.Event(), arrived=arrived))
    async with guest(first.url, second.url) as agent:
        waiting = asyncio.create_task(agent.get())
        await arrived.wait()
        await first.stop()
        assert await waiting == b"attested secret"
    assert first.counters["auth_ok"] == 1
    assert second.counters["attest_ok"] == 1


async def test_one_that_challenges_and_never_attests_is_left_for_a_while(two: tuple[DevKbs, DevKbs]) -> None:
    first, second = two
    first.faults.on("attest", Fault(Kind.RESET))
    async with guest(first.url, second.url) as agent:
        assert await agent.get() == b"attested secret"
        token = await agent.session.token(soon())
        await agent.session.token(soon(), refused=token)
    assert first.counters["auth"] == 1  # though it answers there every time
    assert second.counters["attest_ok"] == 2


async def test_a_resource_comes_from_wherever_it_can(two: tuple[DevKbs, DevKbs]) -> None:
    first, second = two
    async with guest(first.url, second.url) as agent:
        assert await agent.get() == b"attested secret"
        await first.stop()
        assert await agent.get() == b"attested secret"
        assert second.counters["resource_ok"] == 1
        assert first.counters["attest"] + second.counters["attest"] == 1


async def test_tokens_that_only_their_own_endpoint_takes(two: tuple[DevKbs, DevKbs]) -> None:
    first, second = two
    second.rotate_signer()
    first.rotate_signer()  # strangers now
    async with guest(first.url, second.url) as agent:
        assert await agent.get() == b"attested secret"
        await first.stop()
        assert await agent.get() == b"attested secret"
        assert second.counters["attest_ok"] == 1
        await first.start(port=first.port)
        assert await agent.get() == b"attested secret"  # from the one that knows the token
        assert first.counters["attest"] == 1


async def test_a_black_hole_costs_its_share_once() -> None:
    async with DevKbs() as kbs, black_hole() as port:
        kbs.put("default/key/1", b"attested secret")
        async with guest(f"http://127.0.0.1:{port}", kbs.url) as agent:
            assert await agent.get(soon(6)) == b"attested secret"
            assert agent.health()[1] is Health.CLOSED
            before = CLOCK.boot()
            # Counted as one failure; a few more and it is not asked any more.
            for _ in range(3):
                await agent.get(soon(3))
            assert CLOCK.boot() - before < 9
            assert agent.metrics.registry.get_sample_value(
                "coco_kbs_endpoint_requests_total", {"index": "1", "result": "ok"}
            )


async def test_both_down_and_then_one_up(two: tuple[DevKbs, DevKbs]) -> None:
    first, second = two
    await first.stop()
    await second.stop()
    async with guest(first.url, second.url) as agent:
        for _ in range(3):
            with pytest.raises(AgentError) as caught:
                await agent.get(soon(0.3))
            assert caught.value.code is ErrorCode.KBS_UNREACHABLE
        assert agent.health() == [Health.OPEN, Health.OPEN] or Health.HALF_OPEN in agent.health()
        await second.start(port=second.port)
        assert await agent.get() == b"attested secret"  # open breakers never stand in the way
        assert agent.health()[1] is Health.CLOSED


async def test_waiting_callers_are_served_when_one_comes_back(two: tuple[DevKbs, DevKbs]) -> None:
    first, second = two
    async with guest(first.url, second.url) as agent:
        assert await agent.get() == b"attested secret"
        await first.stop()
        await second.stop()
        waiting = [asyncio.create_task(agent.get()) for _ in range(20)]
        await asyncio.sleep(0.1)
        await second.start(port=second.port)
        assert set(await asyncio.gather(*waiting)) == {b"attested secret"}


async def test_refusals_are_not_taken_elsewhere(two: tuple[DevKbs, DevKbs]) -> None:
    first, second = two
    first.deny()
    async with guest(first.url, second.url) as agent:
        with pytest.raises(AgentError) as caught:
            await agent.get()
        assert caught.value.code is ErrorCode.RESOURCE_DENIED
        assert agent.health()[0] is Health.CLOSED
    assert second.counters["requests"] == 0


async def test_each_endpoint_has_its_own_pins_and_roots(client_of: Callable[..., KbsClient]) -> None:
    pinned, root = pki.self_signed(), pki.Authority()
    async with (
        raw_server(reply(b"first"), tls=pinned.context()) as first,
        raw_server(reply(b"second"), tls=root.issue().context()) as second,
    ):
        for pin, says in ((pinned.pin, b"first"), (bytes(32), b"second")):
            servers = (KbsServer(secure(first), pins=(pin,)), KbsServer(secure(second), root.pem))
            client = client_of(secure(first), endpoints=servers)
            assert (await client.get(URI, TOKEN, soon()))[1] == says
        both_wrong = (KbsServer(secure(first), root.pem), KbsServer(secure(second), pins=(pinned.pin,)))
        error = await failure(client_of(secure(first), endpoints=both_wrong))
    assert error.code is ErrorCode.KBS_TLS_FAILED
    assert len(first.heads) == len(second.heads) == 1


async def test_each_endpoint_shows_when_its_certificate_ends() -> None:
    pinned, root, metrics = pki.self_signed(), pki.Authority(), Metrics()
    rooted = root.issue()

    def ends(index: int) -> float | None:
        name = "coco_kbs_cert_expiry_timestamp_seconds"
        return metrics.registry.get_sample_value(name, {"index": str(index)})

    async with (
        raw_server(reply(), tls=pinned.context()) as first,
        raw_server(reply(), tls=rooted.context()) as second,
    ):
        servers = (KbsServer(secure(first), pins=(pinned.pin,)), KbsServer(secure(second), root.pem))
        client = KbsClient(Kbs(url=secure(first), endpoints=servers), CLOCK, metrics)
        await client.get(URI, TOKEN, soon())
        assert (ends(0), ends(1)) == (pinned.cert.not_valid_after_utc.timestamp(), None)
        await first.stop()
        await client.get(URI, TOKEN, soon())
        await client.close()
    assert ends(1) == rooted.cert.not_valid_after_utc.timestamp()


async def test_passport_mode_attests_at_one_broker_and_fetches_at_others(two: tuple[DevKbs, DevKbs]) -> None:
    first, second = two
    async with DevKbs() as home:
        for kbs in two:
            kbs.trust(home.signer)
        async with guest(first.url, second.url, home=home.url) as agent:
            assert await agent.get() == b"attested secret"
            await first.stop()
            assert await agent.get() == b"attested secret"
        assert home.counters["attest_ok"] == 1
        assert first.counters["attest"] == second.counters["attest"] == 0


async def test_only_tls_tells_the_time(client_of: Callable[..., KbsClient]) -> None:
    identity = pki.self_signed()
    answer = reply(head="Content-Type: text/xml\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n")
    skew = ClockSkew(CLOCK)
    async with raw_server(answer) as open_one, raw_server(answer, tls=identity.context()) as pinned:
        await client_of(plain(open_one), skew=skew).get(URI, TOKEN, soon())
        assert skew.offset() is None
        await client_of(secure(pinned), pins=(identity.pin,), skew=skew).get(URI, TOKEN, soon())
        offset = skew.offset()
        assert offset is not None
        assert offset > 30 * 365 * 86400


async def test_a_silent_endpoint_leaves_time_for_the_next(client_of: Callable[..., KbsClient]) -> None:
    async with raw_server(RawServer.HOLD) as silent, raw_server(reply(b"value")) as well:
        client = client_of(plain(silent), endpoints=(KbsServer(plain(silent)), KbsServer(plain(well))))
        assert (await client.get(URI, TOKEN, soon(2.5)))[1] == b"value"
        before = CLOCK.boot()
        assert (await client.get(URI, TOKEN, soon(2.5)))[1] == b"value"
        assert CLOCK.boot() - before < 0.5  # it is not asked first again
    assert silent.connections == 1
