from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import Deadline
from agent.config import limits
from agent.config.model import KeyAlgorithm
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.kbs.keys import TeeKey
from agent.kbs.session import Held, Session, refresh_due, retry_pause
from agent.kbs.token import KbsToken
from agent.observe.metrics import Metrics
from agent.secret import Secret
from agent.tee.evidence_source import GuestEvidence
from tests.unit.kbs import PROPERTY
from tests.unit.kbs.inmemory import InMemory, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.session.close()


def soon(world: World, seconds: float = 20.0) -> Deadline:
    return Deadline.after(world.clock, seconds)


async def settle() -> None:
    """Let every task that can run do so; nothing in these tests waits for anything outside of the loop."""
    for _ in range(50):
        await asyncio.sleep(0)


async def refusal(world: World, *, refused: KbsToken | None = None) -> AgentError:
    with pytest.raises(AgentError) as caught:
        await world.session.token(soon(world), refused=refused)
    return caught.value


async def test_a_thousand_callers_at_once_cause_one_handshake(world: World) -> None:
    tokens = await asyncio.gather(*(world.session.token(soon(world)) for _ in range(1000)))
    assert world.handshakes == 1
    assert world.broker.counters["verified"] == 1
    assert all(token is tokens[0] for token in tokens)
    assert world.session.attested
    assert world.session.seconds_left() == pytest.approx(300)


async def test_a_held_token_is_handed_out_without_asking_anybody(world: World) -> None:
    first = await world.session.token(soon(world))
    world.clock.advance(100)
    assert await world.session.token(soon(world)) is first
    assert world.handshakes == 1


async def test_each_handshake_has_a_new_key(world: World) -> None:
    first = await world.session.token(soon(world))
    world.clock.advance(400)
    second = await world.session.token(soon(world))
    assert first.key.jwk() != second.key.jwk()


async def test_rsa_keys_work_too() -> None:
    world = World(algorithm=KeyAlgorithm.RSA)
    token = await world.session.token(soon(world))
    assert token.key.algorithm is KeyAlgorithm.RSA
    await world.session.close()


async def test_a_token_is_renewed_before_it_expires(world: World) -> None:
    first = await world.session.token(soon(world))
    world.clock.advance(300 - limits.TOKEN_MARGIN - 1)
    assert await world.session.token(soon(world)) is first
    world.clock.advance(1)
    await settle()  # the renewal in the background, due by now
    assert await world.session.token(soon(world)) is not first
    assert world.handshakes == 2


async def test_nobody_gets_a_token_that_is_about_to_expire(world: World) -> None:
    first = await world.session.token(soon(world))
    world.clock.advance(300 - limits.TOKEN_MARGIN)
    assert await world.session.token(soon(world)) is not first


async def test_the_timer_is_set_for_the_renewal(world: World) -> None:
    await world.session.token(soon(world))
    timer = world.session._timer
    assert timer is not None
    assert timer.when() - asyncio.get_running_loop().time() == pytest.approx(0.75 * 270, abs=5)


async def test_a_jump_of_the_wall_clock_changes_nothing(world: World) -> None:
    first = await world.session.token(soon(world))
    world.clock.jump_wall(10_000_000)
    assert await world.session.token(soon(world)) is first
    world.clock.jump_wall(-20_000_000)
    assert await world.session.token(soon(world)) is first


async def test_a_short_lived_token_is_still_of_use() -> None:
    world = World(token_life=12.0)
    first = await world.session.token(soon(world))
    world.clock.advance(7.9)
    assert await world.session.token(soon(world)) is first
    world.clock.advance(0.2)  # a third of its life before the end
    await settle()
    assert await world.session.token(soon(world)) is not first
    await world.session.close()


async def test_a_hundred_callers_refused_with_one_token_cause_one_handshake(world: World) -> None:
    old = await world.session.token(soon(world))
    renewed = await asyncio.gather(*(world.session.token(soon(world), refused=old) for _ in range(100)))
    assert world.handshakes == 2
    assert all(token is renewed[0] for token in renewed)
    assert renewed[0] is not old


async def test_a_late_refusal_of_an_old_token_costs_the_new_one_nothing(world: World) -> None:
    old = await world.session.token(soon(world))
    new = await world.session.token(soon(world), refused=old)
    assert await world.session.token(soon(world), refused=old) is new
    assert world.handshakes == 2


async def test_a_caller_that_is_cancelled_does_not_disturb_the_others(world: World) -> None:
    world.client.gate.clear()
    callers = [asyncio.ensure_future(world.session.token(soon(world))) for _ in range(3)]
    await world.client.arrived.wait()
    callers[0].cancel()
    await settle()
    world.client.gate.set()
    assert (await callers[1]) is (await callers[2])
    assert callers[0].cancelled()
    assert world.handshakes == 1


async def test_when_every_caller_has_left_the_handshake_stops(world: World) -> None:
    world.client.gate.clear()
    callers = [asyncio.ensure_future(world.session.token(soon(world))) for _ in range(3)]
    await world.client.arrived.wait()
    for caller in callers:
        caller.cancel()
    await settle()
    world.client.gate.set()
    await settle()
    assert world.handshakes == 0
    assert world.metric("coco_attestation_failure_total", reason="CANCELLED") == 1
    await world.session.token(soon(world))


async def test_a_caller_waits_for_its_own_deadline_and_hears_the_phase(world: World) -> None:
    world.client.gate.clear()
    patient = asyncio.ensure_future(world.session.token(soon(world)))
    await world.client.arrived.wait()
    with pytest.raises(AgentError) as caught:
        await world.session.token(soon(world, 0.01))
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
    assert "auth" in caught.value.detail
    world.client.gate.set()
    assert (await patient).expires > 0


async def test_the_flight_has_its_own_deadline_not_its_first_callers(world: World) -> None:
    await world.session.token(Deadline.never(world.clock))
    assert world.client.deadlines == [limits.ATTEST_DEADLINE]


async def test_callers_that_waited_share_a_failure_and_the_next_tries_again(world: World) -> None:
    world.client.failures = [AgentError(ErrorCode.ATTESTATION_REJECTED)]
    outcomes = await asyncio.gather(
        *(world.session.token(soon(world)) for _ in range(100)), return_exceptions=True
    )
    assert {type(outcome) for outcome in outcomes} == {AgentError}
    assert len(world.client.deadlines) == 1
    assert world.session.last_failure is ErrorCode.ATTESTATION_REJECTED
    assert not world.session.attested
    await world.session.token(soon(world))
    assert world.session.last_failure is None


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.ATTESTATION_REJECTED,
        ErrorCode.PROTOCOL_MISMATCH,
        ErrorCode.KBS_TLS_FAILED,
        ErrorCode.KBS_NOT_CONFIGURED,
    ],
)
async def test_a_final_failure_is_not_tried_again(world: World, code: ErrorCode) -> None:
    world.client.failures = [AgentError(code)] * 2
    assert (await refusal(world)).code is code
    assert len(world.client.deadlines) == 1
    assert world.pauses == []


async def test_a_passing_failure_is_tried_again_with_growing_pauses(world: World) -> None:
    world.client.failures = [AgentError(ErrorCode.KBS_UNREACHABLE), AgentError(ErrorCode.KBS_BUSY)]
    await world.session.token(soon(world))
    assert world.pauses == [0.25, 0.5]
    assert world.metric("coco_attestation_attempts_total") == 3
    assert world.metric("coco_attestation_success_total") == 1
    assert world.metric("coco_attestation_failure_total", reason="KBS_BUSY") == 1


async def test_a_lasting_outage_ends_with_its_reason(world: World) -> None:
    world.client.failures = [AgentError(ErrorCode.KBS_DNS_FAILED)] * 10
    assert (await refusal(world)).code is ErrorCode.KBS_DNS_FAILED
    assert len(world.client.deadlines) == limits.ATTEST_TRIES


async def test_tries_end_with_the_flights_time(world: World) -> None:
    class Slow(InMemory):
        async def auth(self, body: bytes, deadline: Deadline) -> tuple[bytes, str]:
            world.clock.advance(30)
            return await super().auth(body, deadline)

    slow = Slow(world.broker)
    slow.failures = [AgentError(ErrorCode.KBS_UNREACHABLE)] * 10
    world.session._client = slow
    assert (await refusal(world)).code is ErrorCode.KBS_UNREACHABLE
    assert len(slow.deadlines) == 2


async def test_a_guest_without_a_tee_says_so_and_asks_nobody() -> None:
    clock, metrics = FakeClock(), Metrics()
    world = World()
    bare = GuestEvidence(None, (), AgentError(ErrorCode.NO_TEE))
    session = Session(world.client, bare, KeyAlgorithm.EC_P256, clock, metrics)
    with pytest.raises(AgentError) as caught:
        await session.token(Deadline.after(clock, 5))
    assert caught.value.code is ErrorCode.NO_TEE
    assert world.handshakes == 0


async def test_a_token_in_use_is_renewed_in_the_background(world: World) -> None:
    first = await world.session.token(soon(world))
    world.clock.advance(210)  # past three quarters of 270
    assert await world.session.token(soon(world)) is first  # nobody waits
    await settle()
    assert world.handshakes == 2
    second = await world.session.token(soon(world))
    assert second is not first
    assert world.session.seconds_left() == pytest.approx(300)


async def test_an_idle_guest_stops_attesting(world: World) -> None:
    await world.session.token(soon(world))
    world.clock.advance(210)
    world.session._refresh_if_due()  # what the timer does
    await settle()
    assert world.handshakes == 2
    world.clock.advance(210)
    world.session._refresh_if_due()
    await settle()
    assert world.handshakes == 2


async def test_a_failed_renewal_keeps_the_old_token_and_pauses(world: World) -> None:
    first = await world.session.token(soon(world))
    world.clock.advance(210)
    world.client.failures = [AgentError(ErrorCode.ATTESTATION_REJECTED)] * 2
    for _ in range(5):
        assert await world.session.token(soon(world)) is first
        await settle()
    assert len(world.client.failures) == 1
    world.clock.advance(limits.TOKEN_REFRESH_PAUSE)
    assert await world.session.token(soon(world)) is first
    await settle()
    assert world.client.failures == []
    world.clock.advance(limits.TOKEN_REFRESH_PAUSE)
    assert await world.session.token(soon(world)) is first
    await settle()
    assert await world.session.token(soon(world)) is not first


async def test_a_caller_joins_the_renewal_under_way(world: World) -> None:
    first = await world.session.token(soon(world))
    world.clock.advance(210)
    world.client.gate.clear()
    await world.session.token(soon(world))
    await settle()
    waiting = asyncio.ensure_future(world.session.token(soon(world), refused=first))
    await settle()
    assert not waiting.done()
    world.client.gate.set()
    assert await waiting is not first
    assert world.handshakes == 2


async def test_close_wipes_the_token_and_answers_everybody(world: World) -> None:
    token = await world.session.token(soon(world))
    world.client.gate.clear()
    world.client.arrived.clear()
    waiting = [asyncio.ensure_future(world.session.token(soon(world), refused=token)) for _ in range(3)]
    await world.client.arrived.wait()
    await world.session.close()
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(outcome, AgentError)
        assert outcome.code is ErrorCode.CANCELLED
    assert (await refusal(world)).code is ErrorCode.CANCELLED
    await world.session.close()


async def test_close_wipes_what_is_held(world: World) -> None:
    token = await world.session.token(soon(world))
    await world.session.close()
    assert len(token.jwt) == 0
    assert not world.session.attested
    assert world.session.seconds_left() == 0


async def test_close_stops_a_renewal(world: World) -> None:
    await world.session.token(soon(world))
    world.clock.advance(210)
    world.client.gate.clear()
    await world.session.token(soon(world))
    await settle()
    await world.session.close()
    assert world.handshakes == 1
    assert world.session._background is None


async def test_phases_are_measured(world: World) -> None:
    await world.session.token(soon(world))
    for phase in ("auth", "evidence", "attest", "total"):
        assert world.metric("coco_attestation_duration_seconds_count", phase=phase) == 1


async def test_logs_name_codes_and_nothing_else(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    world.client.failures = [AgentError(ErrorCode.KBS_BUSY, "canary-detail")]
    token = await world.session.token(soon(world))
    text = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "KBS_BUSY" in text
    assert "canary-detail" not in text
    assert token.jwt.reveal().decode() not in text


@pytest.mark.parametrize(
    ("now", "used", "due"),
    [(99.9, True, False), (100.0, True, True), (100.0, False, False), (500.0, True, True)],
)
def test_a_renewal_is_due_late_in_the_life_of_a_used_token(now: float, used: bool, due: bool) -> None:
    assert refresh_due(now, 100.0, used=used) is due


KEY = TeeKey.generate(KeyAlgorithm.EC_P256)


@PROPERTY
@given(life=st.floats(-10, 100_000), received=st.floats(0, 1e7))
def test_times_of_a_held_token_are_in_order(life: float, received: float) -> None:
    held = Held.since(KbsToken(Secret(b"x"), KEY, received + life), received)
    assert received <= held.refresh_from <= held.usable_until <= max(received, received + life)


@pytest.mark.parametrize("failed", range(1, limits.ATTEST_TRIES + 1))
def test_pauses_grow_and_vary_by_half(failed: int) -> None:
    longest = 0.25 * 2 ** (failed - 1)
    assert retry_pause(failed, 1.0) == longest
    assert retry_pause(failed, 0.0) == longest / 2
