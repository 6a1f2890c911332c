from __future__ import annotations

import asyncio
import contextvars
import logging
import weakref
from typing import TYPE_CHECKING

import pytest

from agent.clock import Deadline
from agent.config import limits
from agent.config.model import KeyAlgorithm
from agent.devkit.clock import FakeClock
from agent.devkit.sample import SampleAttester, SampleDevice
from agent.errors import AgentError, ErrorCode
from agent.kbs.credential import SessionRef
from agent.kbs.progress import work_in_background
from agent.kbs.session import Session
from agent.observe.metrics import Metrics
from agent.tee.evidence_source import GuestEvidence
from tests.unit.kbs.inmemory import ENDPOINT, InMemory, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent.kbs.token import KbsToken


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


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.7), (0.5, 0.8), (1.0, 0.9)])
async def test_the_renewal_is_drawn_for_each_token(world: World, chance: float, share: float) -> None:
    world.chance = chance
    await world.session.token(soon(world))
    timer = world.session._timer
    assert timer is not None
    assert timer.when() - asyncio.get_running_loop().time() == pytest.approx(share * 300, abs=5)


async def test_guests_that_attested_together_do_not_renew_together() -> None:
    renewals = []
    for chance in (0.1, 0.4, 0.8):
        world = World()
        world.chance = chance
        await world.session.token(soon(world))
        renewals.append(world.session._refresh_from - world.clock.boot())
        await world.session.close()
    assert renewals == pytest.approx([216, 234, 258])


async def test_a_jump_of_the_wall_clock_changes_nothing(world: World) -> None:
    first = await world.session.token(soon(world))
    world.clock.jump_wall(10_000_000)
    assert await world.session.token(soon(world)) is first
    world.clock.jump_wall(-20_000_000)
    assert await world.session.token(soon(world)) is first


async def test_a_short_lived_token_is_still_of_use() -> None:
    world = World(token_life=12.0)
    first = await world.session.token(soon(world))
    world.clock.advance(9.5)  # eight tenths of its life are 9.6
    assert await world.session.token(soon(world)) is first
    world.clock.advance(0.2)
    assert await world.session.token(soon(world)) is first  # nobody waits
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


async def gave_up(world: World, seconds: float = 0.01) -> AgentError:
    """What a caller hears whose deadline passes while the flight of a patient one goes on."""
    with pytest.raises(AgentError) as caught:
        await world.session.token(soon(world, seconds))
    return caught.value


async def test_a_caller_that_cannot_wait_for_the_challenge_hears_so(world: World) -> None:
    world.client.gate.clear()
    patient = asyncio.ensure_future(world.session.token(soon(world)))
    await world.client.arrived.wait()
    error = await gave_up(world)
    assert error.code is ErrorCode.KBS_TIMEOUT
    assert "asking the broker for a challenge" in error.detail
    world.client.gate.set()
    assert (await patient).expires > 0
    assert world.handshakes == 1


async def test_a_caller_that_cannot_wait_for_the_quote_hears_so(world: World) -> None:
    world.attester.gate.clear()
    patient = asyncio.ensure_future(world.session.token(soon(world)))
    await settle()
    error = await gave_up(world)
    assert error.code is ErrorCode.EVIDENCE_TIMEOUT
    assert "collecting evidence" in error.detail
    world.attester.gate.set()
    await patient
    assert world.handshakes == 1


async def test_a_caller_that_cannot_wait_for_the_appraisal_hears_so(world: World) -> None:
    world.client.attest_gate.clear()
    patient = asyncio.ensure_future(world.session.token(soon(world)))
    await settle()
    assert (await gave_up(world)).code is ErrorCode.APPRAISAL_TIMEOUT
    world.client.attest_gate.set()
    await patient
    assert world.handshakes == 1


async def test_a_caller_in_an_outage_hears_of_the_outage(world: World) -> None:
    world.client.failures = [AgentError(ErrorCode.KBS_DNS_FAILED, "no network yet")]
    world.awake.clear()
    patient = asyncio.ensure_future(world.session.token(soon(world)))
    await settle()
    world.chance = 1.0
    error = await gave_up(world)
    assert error.code is ErrorCode.KBS_DNS_FAILED
    assert "no network yet" in error.detail
    world.awake.set()
    await patient


async def test_who_has_no_time_left_is_told_at_once_and_costs_nothing(world: World) -> None:
    error = await gave_up(world, 0)
    assert error.code is ErrorCode.DEADLINE_EXCEEDED
    await settle()
    assert world.metric("coco_attestation_attempts_total") == 0


async def test_callers_one_after_the_other_share_a_slow_appraisal(world: World) -> None:
    world.client.attest_gate.clear()
    early = asyncio.ensure_future(world.session.token(soon(world, 0.05)))
    await settle()
    late = asyncio.ensure_future(world.session.token(soon(world)))
    with pytest.raises(AgentError):
        await early
    world.client.attest_gate.set()
    await late
    assert world.handshakes == 1


async def test_the_challenge_has_the_callers_time_and_a_flight_its_own_at_most(world: World) -> None:
    await world.session.token(Deadline.never(world.clock))
    world.clock.advance(1000)
    await world.session.token(soon(world, 20))
    assert world.client.deadlines == [limits.ATTEST_DEADLINE, 20]


async def test_a_quote_that_takes_too_long_says_so(world: World) -> None:
    world.attester.gate.clear()
    world.session._attestation._evidence = Late()
    error = await refusal(world)
    assert error.code is ErrorCode.EVIDENCE_TIMEOUT


class Late:
    """A source that keeps its own deadline, and names it as everybody does."""

    tee = "sample"
    devices = ()

    async def additional(self, report_data: bytes, deadline: Deadline) -> bytes:
        return b""

    async def primary(self, report_data: bytes, deadline: Deadline) -> bytes:
        deadline.clock.advance(100)  # type: ignore[attr-defined]  # a FakeClock
        raise AgentError(ErrorCode.DEADLINE_EXCEEDED, "time ran out while asking a device")


@pytest.mark.parametrize("code", [ErrorCode.KBS_TIMEOUT, ErrorCode.APPRAISAL_TIMEOUT])
async def test_a_broker_that_takes_too_long_to_judge_is_named_so(world: World, code: ErrorCode) -> None:
    world.client.attest_failures = [AgentError(code, "45 s")] * 10
    world.chance = 1.0
    assert (await refusal(world)).code is ErrorCode.APPRAISAL_TIMEOUT


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
    world.chance = 1.0
    await world.session.token(soon(world))
    assert world.pauses == pytest.approx([limits.RETRY_FIRST_PAUSE, 2 * limits.RETRY_FIRST_PAUSE])
    assert world.metric("coco_attestation_attempts_total") == 3
    assert world.metric("coco_attestation_success_total") == 1
    assert world.metric("coco_attestation_failure_total", reason="KBS_BUSY") == 1


async def test_pauses_are_spread_over_their_whole_range(world: World) -> None:
    world.client.failures = [AgentError(ErrorCode.KBS_UNREACHABLE)]
    world.chance = 0.0
    await world.session.token(soon(world))
    assert world.pauses == [0.0]


async def test_the_broker_is_not_asked_before_it_wants_to_be(world: World) -> None:
    world.client.failures = [AgentError(ErrorCode.KBS_BUSY, retry_after=7.0)]
    world.chance = 1.0
    await world.session.token(soon(world))
    assert world.pauses == pytest.approx([7.0 + limits.RETRY_FIRST_PAUSE])


async def test_a_broker_that_asks_for_more_time_than_there_is_ends_the_flight(world: World) -> None:
    world.client.failures = [AgentError(ErrorCode.KBS_BUSY, retry_after=30.0)]
    error = await refusal(world)
    assert (error.code, error.retry_after) == (ErrorCode.KBS_BUSY, 30.0)
    assert world.pauses == []


async def test_a_lasting_outage_ends_with_its_reason_within_the_deadline(world: World) -> None:
    world.client.failures = [AgentError(ErrorCode.KBS_DNS_FAILED)] * 100
    began = world.clock.boot()
    assert (await refusal(world)).code is ErrorCode.KBS_DNS_FAILED
    assert 10 < world.clock.boot() - began <= 20
    assert len(world.client.deadlines) > 5


async def test_by_default_the_reason_of_an_outage_is_told_after_ten_seconds() -> None:
    world = World(retry_for=limits.RETRY_FOR)
    world.client.failures = [AgentError(ErrorCode.KBS_UNREACHABLE)] * 100
    began = world.clock.boot()
    with pytest.raises(AgentError) as caught:
        await world.session.token(soon(world, 50.0))
    assert caught.value.code is ErrorCode.KBS_UNREACHABLE
    assert 5 < world.clock.boot() - began <= limits.RETRY_FOR


async def test_a_later_caller_gives_the_flight_more_time(world: World) -> None:
    world.client.failures = [AgentError(ErrorCode.KBS_UNREACHABLE)] * 8
    world.client.gate.clear()
    first = asyncio.ensure_future(world.session.token(soon(world, 1.0)))
    await world.client.arrived.wait()
    second = asyncio.ensure_future(world.session.token(soon(world, 40.0)))
    await settle()
    world.client.gate.set()
    await second
    assert world.handshakes == 1
    await first  # its real second had not passed


async def test_a_pause_is_cut_short_for_a_caller_that_cannot_outlast_it(world: World) -> None:
    world.client.failures = [AgentError(ErrorCode.KBS_UNREACHABLE)]
    world.awake.clear()
    patient = asyncio.ensure_future(world.session.token(soon(world, 40.0)))
    await settle()
    assert world.pauses == pytest.approx([0.5])
    hurried = asyncio.ensure_future(world.session.token(soon(world, 0.4)))
    await settle()
    assert world.pauses == pytest.approx([0.5, 0.1])  # half of the first half of its time
    world.awake.set()
    assert await hurried is await patient


async def test_a_pause_the_broker_asked_for_is_not_cut_short(world: World) -> None:
    world.client.failures = [AgentError(ErrorCode.KBS_BUSY, retry_after=20.0)]
    world.awake.clear()
    patient = asyncio.ensure_future(world.session.token(soon(world, 40.0)))
    await settle()
    assert (await gave_up(world)).code is ErrorCode.KBS_BUSY
    assert min(world.pauses) >= 20
    world.awake.set()
    await patient


async def test_no_network_for_90_seconds_and_then_the_first_request_succeeds(world: World) -> None:
    ready = world.clock.boot() + 90
    codes = set()
    while world.clock.boot() < ready:
        began = world.clock.boot()
        world.client.failures = [AgentError(ErrorCode.KBS_DNS_FAILED)] * 50
        with pytest.raises(AgentError) as caught:
            await world.session.token(soon(world, 8))
        codes.add(caught.value.code)
        assert world.clock.boot() - began <= 8
        world.clock.advance(1)
    assert codes == {ErrorCode.KBS_DNS_FAILED}
    world.client.failures = []
    world.pauses.clear()
    await world.session.token(soon(world, 8))
    assert world.pauses == []


# --- outages that others have waited for ----------------------------------------------------------
async def spent(world: World, code: ErrorCode, seconds: float = 50.0) -> float:
    """Seconds that one caller waited until it heard of the outage."""
    began = world.clock.boot()
    with pytest.raises(AgentError) as caught:
        await world.session.token(soon(world, seconds))
    assert caught.value.code is code
    return world.clock.boot() - began


@pytest.mark.parametrize("code", [ErrorCode.KBS_UNREACHABLE, ErrorCode.KBS_DNS_FAILED, ErrorCode.KBS_BUSY])
@pytest.mark.parametrize("at", ["auth", "attest"])
async def test_callers_one_after_the_other_wait_for_an_outage_once(code: ErrorCode, at: str) -> None:
    world = World(retry_for=limits.RETRY_FOR)
    failures = world.client.failures if at == "auth" else world.client.attest_failures
    failures += [AgentError(code)] * 100
    assert 5 < await spent(world, code) <= limits.RETRY_FOR
    tries = len(failures)
    for _ in range(7):
        assert await spent(world, code) == 0.0
    assert tries - len(failures) == 7
    world.clock.advance(limits.OUTAGE_KNOWN)
    assert 5 < await spent(world, code) <= limits.RETRY_FOR
    failures.clear()
    world.pauses.clear()
    await world.session.token(soon(world))  # it is back: found at once
    assert world.pauses == []


async def test_callers_with_little_time_leave_the_others_their_patience(world: World) -> None:
    world.client.failures = [AgentError(ErrorCode.KBS_UNREACHABLE)] * 100
    for _ in range(3):
        await spent(world, ErrorCode.KBS_UNREACHABLE, 3.0)
    assert await spent(world, ErrorCode.KBS_UNREACHABLE, 9.0) > 3.0


async def test_a_caller_that_waited_for_the_appraisal_to_its_end_tells_the_next(world: World) -> None:
    world.client.attest_gate.clear()
    patience = world.session._outage.begin("attest")
    caller = asyncio.ensure_future(world.session._join(Deadline.after(world.clock, 20.0)))
    await settle()
    world.clock.advance(70.0)  # longer than it is tried again, and the caller's time is up
    world.session._given_up(world.session._progress, Deadline.after(world.clock, 20.0))
    caller.cancel()
    assert patience.known is None
    known = world.session._outage.known("attest")
    assert known is not None
    assert known.reason.code is ErrorCode.APPRAISAL_TIMEOUT
    assert known.silent == 1


async def test_a_caller_in_a_hurry_says_nothing_of_a_flight_that_lasts(world: World) -> None:
    world.client.attest_gate.clear()
    patient = asyncio.ensure_future(world.session.token(soon(world, 500.0)))
    await settle()
    world.clock.advance(70.0)  # a slow appraisal, longer than anything is tried again
    assert (await gave_up(world)).code is ErrorCode.APPRAISAL_TIMEOUT
    assert world.session._outage.known("attest") is None
    world.client.attest_gate.set()
    await patient


async def test_a_flight_in_the_background_costs_nobody_the_patience() -> None:
    world = World(retry_for=limits.RETRY_FOR)
    world.client.failures = [AgentError(ErrorCode.KBS_UNREACHABLE)] * 100
    context = contextvars.copy_context()
    context.run(work_in_background)
    fetch = asyncio.get_running_loop().create_task(world.session.token(soon(world, 50.0)), context=context)
    with pytest.raises(AgentError):
        await fetch
    assert await spent(world, ErrorCode.KBS_UNREACHABLE) > 5.0


async def test_a_caller_that_joins_the_background_has_its_whole_patience() -> None:
    world = World(retry_for=limits.RETRY_FOR)
    world.client.failures = [AgentError(ErrorCode.KBS_UNREACHABLE)] * 100
    world.awake.clear()
    context = contextvars.copy_context()
    context.run(work_in_background)
    fetch = asyncio.get_running_loop().create_task(world.session.token(soon(world, 50.0)), context=context)
    await settle()
    world.clock.advance(9.0)
    caller = asyncio.ensure_future(world.session.token(soon(world, 50.0)))
    await settle()
    began = world.clock.boot()
    world.awake.set()
    await asyncio.gather(fetch, caller, return_exceptions=True)
    assert 5.0 < world.clock.boot() - began <= limits.RETRY_FOR


async def test_a_caller_does_not_inherit_the_long_pauses_of_the_background(world: World) -> None:
    for _ in range(limits.RETRY_REMEMBERED):
        world.session._unheard.failed(1)  # what happened before
    world.client.failures = [AgentError(ErrorCode.KBS_UNREACHABLE)] * 3
    world.chance = 1.0
    world.awake.clear()
    context = contextvars.copy_context()
    context.run(work_in_background)
    fetch = asyncio.get_running_loop().create_task(world.session.token(soon(world, 50.0)), context=context)
    await settle()
    caller = asyncio.ensure_future(world.session.token(soon(world, 50.0)))
    await settle()
    world.awake.set()
    await asyncio.gather(fetch, caller)
    first = limits.RETRY_FIRST_PAUSE
    assert world.pauses == pytest.approx([limits.RETRY_LONGEST_PAUSE, limits.RETRY_JOINED, first, 2 * first])


async def test_a_new_caller_does_not_sleep_through_the_end_of_an_outage(world: World) -> None:
    for _ in range(3):
        world.session._trouble.failed(1)  # what happened before
    world.client.failures = [AgentError(ErrorCode.KBS_UNREACHABLE)]
    world.chance = 1.0
    world.awake.clear()
    first = asyncio.ensure_future(world.session.token(soon(world, 50.0)))
    await settle()
    assert world.pauses == pytest.approx([8.0])
    second = asyncio.ensure_future(world.session.token(soon(world, 50.0)))
    await settle()
    assert world.pauses[1:] == pytest.approx([limits.RETRY_JOINED])
    world.awake.set()
    assert await first is await second


async def test_a_pause_ends_when_the_broker_answers_somebody(world: World) -> None:
    world.client.failures = [AgentError(ErrorCode.KBS_UNREACHABLE)]
    world.awake.clear()
    waiting = asyncio.ensure_future(world.session.token(soon(world, 50.0)))
    await settle()
    world.session._pauses.answered("resource")
    await settle()
    assert waiting.done()
    await waiting


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
    world.clock.advance(241)
    assert await world.session.token(soon(world)) is first  # nobody waits
    await settle()
    assert world.handshakes == 2
    second = await world.session.token(soon(world))
    assert second is not first
    assert world.session.seconds_left() == pytest.approx(300)


async def test_an_idle_guest_stops_attesting(world: World) -> None:
    await world.session.token(soon(world))
    for seconds, handshakes in ((241, 2), (241, 2), (2000, 2)):
        world.clock.advance(seconds)
        world.session._refresh_if_due()  # what the timer does
        await settle()
        assert world.handshakes == handshakes
    await world.session.token(soon(world))
    assert world.handshakes == 3


async def test_how_long_a_guest_counts_as_busy_is_configured() -> None:
    world = World(refresh_while_used=1000.0)
    await world.session.token(soon(world))
    for handshakes in (2, 3, 4, 5, 5):
        world.clock.advance(241)
        world.session._refresh_if_due()
        await settle()
        assert world.handshakes == handshakes
    await world.session.close()


async def test_a_guest_can_renew_on_demand_only() -> None:
    world = World(refresh_while_used=0.0)
    first = await world.session.token(soon(world))
    assert world.session._timer is None
    world.clock.advance(269)
    assert await world.session.token(soon(world)) is first
    await settle()
    assert world.handshakes == 1
    world.clock.advance(2)
    assert await world.session.token(soon(world)) is not first
    await world.session.close()


async def test_a_failed_renewal_keeps_the_old_token_and_pauses(world: World) -> None:
    first = await world.session.token(soon(world))
    world.clock.advance(241)
    world.client.failures = [AgentError(ErrorCode.ATTESTATION_REJECTED)] * 2
    for _ in range(5):
        assert await world.session.token(soon(world)) is first
        await settle()
    assert len(world.client.failures) == 1
    world.clock.advance(limits.TOKEN_REFRESH_PAUSE)
    assert await world.session.token(soon(world)) is first
    await settle()
    assert world.client.failures == []
    world.clock.advance(limits.TOKEN_REFRESH_PAUSE - 5)
    await settle()
    world.clock.advance(5)
    assert await world.session.token(soon(world)) is not first


async def test_a_caller_joins_the_renewal_under_way(world: World) -> None:
    first = await world.session.token(soon(world))
    world.clock.advance(241)
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
    world.clock.advance(241)
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


# --- what a token stands for ----------------------------------------------------------------------
async def test_a_token_knows_its_session_and_what_was_attested(world: World) -> None:
    token = await world.session.token(soon(world))
    assert isinstance(token.session, SessionRef)
    assert token.session.endpoint == ENDPOINT
    assert token.identity == world.session.identity
    assert len(token.identity) == 64


async def test_a_token_for_other_devices_is_not_handed_out_any_more(world: World) -> None:
    first = await world.session.token(soon(world))
    before = world.session.identity
    world.evidence._devices = ()
    assert world.session.identity != before
    second = await world.session.token(soon(world))
    assert second is not first
    assert second.identity == world.session.identity
    assert await world.session.token(soon(world)) is second


async def test_a_token_from_before_a_measurement_is_not_handed_out_any_more() -> None:
    world, measured = World(), 0
    session = Session(
        InMemory(world.broker),
        GuestEvidence(SampleAttester(), (), None),
        KeyAlgorithm.EC_P256,
        world.clock,
        Metrics(),
        measured=lambda: measured,
    )
    first = await session.token(soon(world))
    assert await session.token(soon(world)) is first
    measured += 1
    second = await session.token(soon(world))
    assert second is not first
    assert await session.token(soon(world)) is second
    await session.close()


async def test_each_part_of_the_identity_counts() -> None:
    clock, metrics, client = FakeClock(), Metrics(), InMemory(World().broker)
    plain = GuestEvidence(SampleAttester(), (), None)
    device = GuestEvidence(SampleAttester(), (SampleDevice(),), None)
    nothing = GuestEvidence(None, (), AgentError(ErrorCode.NO_TEE))
    p256, rsa = KeyAlgorithm.EC_P256, KeyAlgorithm.RSA
    names = {
        Session(client, plain, p256, clock, metrics).identity,
        Session(client, device, p256, clock, metrics).identity,
        Session(client, nothing, p256, clock, metrics).identity,
        Session(client, plain, rsa, clock, metrics).identity,
        Session(client, plain, p256, clock, metrics, endpoints=(ENDPOINT,)).identity,
        Session(client, plain, p256, clock, metrics, init_data="").identity,
        Session(client, plain, p256, clock, metrics, init_data="x").identity,
        Session(client, plain, p256, clock, metrics, measured=lambda: 1).identity,
    }
    assert len(names) == 8
    assert Session(client, plain, p256, clock, metrics).identity in names


async def test_a_renewed_token_is_wiped_when_its_last_user_is_done(world: World) -> None:
    old = await world.session.token(soon(world))
    jwt, session = old.jwt, old.session
    await world.session.token(soon(world), refused=old)
    assert len(jwt) > 0  # an answer for it may be under way
    assert session is not None
    del old
    await settle()
    assert len(jwt) == len(session.cookie) == 0


async def test_the_key_goes_with_its_token(world: World) -> None:
    old = await world.session.token(soon(world))
    key = weakref.ref(old)
    await world.session.token(soon(world), refused=old)
    del old
    await settle()
    assert key() is None
