"""Who waits in an outage, and how long: on a clock that tests wind."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import limits
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.kbs.outage import Outage, Patience

REFUSED = AgentError(ErrorCode.KBS_UNREACHABLE, "connection refused")
SILENT = AgentError(ErrorCode.KBS_TIMEOUT, "time ran out")
BUSY = AgentError(ErrorCode.KBS_BUSY, "503")
UNJUDGED = AgentError(ErrorCode.APPRAISAL_TIMEOUT, "time ran out")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def outage(clock: FakeClock) -> Outage:
    return Outage(clock, 10.0)


def spend(outage: Outage, step: str, error: AgentError, *, each: float = 0.0) -> float:
    """One request tries until it gives up; the seconds it took.

    Args:
        outage: of the broker.
        step: that fails.
        error: each time.
        each: seconds of a try, at most what it may take.
    """
    clock = outage.clock
    assert isinstance(clock, FakeClock)
    began = clock.boot()
    patience = outage.begin(step)
    while True:
        took = min(each, outage.limit(step))
        clock.advance(took)
        outage.failed(step, took)
        if patience.left(error) < limits.RETRY_LEAST:
            patience.gave_up(step, error, own=True)
            return clock.boot() - began
        clock.advance(limits.RETRY_LEAST)


@pytest.mark.parametrize(
    ("step", "error", "each", "first"),
    [
        ("auth", REFUSED, 0.0, 10.0),
        ("auth", REFUSED, 10.0, 10.0),  # nobody answers on the way
        ("auth", AgentError(ErrorCode.KBS_DNS_FAILED), 0.0, 10.0),
        ("auth", AgentError(ErrorCode.KBS_DNS_FAILED), 5.0, 10.25),
        ("auth", AgentError(ErrorCode.KBS_TLS_TIMEOUT), 10.0, 10.0),
        ("auth", SILENT, 45.0, 45.0),
        ("auth", BUSY, 0.0, 10.0),
        ("attest", UNJUDGED, 45.0, 45.0),
        ("attest", BUSY, 0.0, 10.0),
        ("resource", SILENT, 45.0, 45.0),
        ("resource", BUSY, 0.0, 10.0),
        ("resource", REFUSED, 0.0, 10.0),
    ],
)
def test_eight_requests_cost_about_one_patience(
    outage: Outage, step: str, error: AgentError, each: float, first: float
) -> None:
    assert spend(outage, step, error, each=each) == pytest.approx(first, abs=0.3)
    assert sum(spend(outage, step, error, each=each) for _ in range(7)) < 4.0


def test_after_some_seconds_a_request_is_patient_again(outage: Outage, clock: FakeClock) -> None:
    spend(outage, "auth", REFUSED)
    assert spend(outage, "auth", REFUSED) == 0.0
    clock.advance(limits.OUTAGE_KNOWN)
    assert spend(outage, "auth", REFUSED) > 9.0


def test_requests_in_an_outage_do_not_prolong_it(outage: Outage, clock: FakeClock) -> None:
    spend(outage, "auth", REFUSED)
    for _ in range(int(limits.OUTAGE_KNOWN)):
        assert spend(outage, "auth", REFUSED) == 0.0
        clock.advance(1.0)
    assert spend(outage, "auth", REFUSED) > 9.0


def test_a_broker_that_answered_before_gets_less_time_when_it_cannot_be_reached(outage: Outage) -> None:
    outage.answered("auth")
    assert spend(outage, "auth", REFUSED) == pytest.approx(4.0, abs=0.3)


@pytest.mark.parametrize("error", [BUSY, AgentError(ErrorCode.KBS_DNS_FAILED)])
def test_one_that_is_busy_or_has_no_name_does_not(outage: Outage, error: AgentError) -> None:
    outage.answered("auth")
    assert spend(outage, "auth", error) > 9.0


def test_who_configures_more_patience_gets_more_of_it(clock: FakeClock) -> None:
    outage = Outage(clock, 30.0)
    outage.answered("auth")
    assert spend(outage, "auth", REFUSED) == pytest.approx(12.0, abs=0.3)


@pytest.mark.parametrize("step", ["auth", "attest", "resource"])
def test_any_answer_ends_an_outage_of_the_line(outage: Outage, step: str) -> None:
    spend(outage, "resource", REFUSED)
    assert outage.known("auth") is not None
    outage.answered(step)
    assert [outage.known(one) for one in ("auth", "attest", "resource")] == [None] * 3


def test_a_challenge_says_nothing_about_a_broker_that_does_not_judge(outage: Outage) -> None:
    spend(outage, "attest", UNJUDGED, each=45.0)
    outage.answered("auth")
    assert outage.known("auth") is None
    known = outage.known("attest")
    assert known is not None
    assert known.reason.code is ErrorCode.APPRAISAL_TIMEOUT
    outage.answered("attest")
    assert outage.known("attest") is None


def test_who_tries_in_an_outage_that_ends_is_patient_after_all(outage: Outage, clock: FakeClock) -> None:
    spend(outage, "auth", REFUSED)
    patience = outage.begin("auth", "attest")
    assert patience.left(REFUSED) == 0.0
    outage.answered("auth")
    assert patience.left(BUSY) == 10.0


def test_tries_are_short_only_where_silence_is_to_be_expected(outage: Outage) -> None:
    assert outage.limit("auth") == math.inf
    spend(outage, "auth", REFUSED)
    assert outage.limit("auth") == math.inf  # a broker that is back may be slow
    outage.answered("auth")
    spend(outage, "auth", SILENT, each=45.0)
    found = []
    for _ in range(4):
        found.append(outage.limit("auth"))
        spend(outage, "auth", SILENT, each=45.0)
    assert found == [
        limits.OUTAGE_TRY,
        limits.OUTAGE_TRY / 2,
        limits.OUTAGE_TRY_LEAST,
        limits.OUTAGE_TRY_LEAST,
    ]
    assert outage.limit("resource") == math.inf


def test_a_caller_in_a_hurry_costs_the_others_nothing(outage: Outage, clock: FakeClock) -> None:
    patience = outage.begin("auth")
    clock.advance(2.0)
    patience.gave_up("auth", REFUSED, own=False)
    assert outage.known("auth") is None
    quick = Outage(clock, 0.0)  # tried once: its caller's time may be short all the same
    patience = quick.begin("resource")
    clock.advance(2.0)
    patience.gave_up("resource", SILENT, own=False, took=2.0)
    assert quick.known("resource") is None
    clock.advance(8.0)
    patience.gave_up("resource", SILENT, own=False, took=10.0)
    assert quick.known("resource") is not None


def test_a_resource_that_hangs_costs_the_others_nothing(outage: Outage, clock: FakeClock) -> None:
    patience = outage.begin("resource")
    clock.advance(40.0)
    outage.answered("resource")  # somebody else's
    clock.advance(5.0)
    outage.failed("resource", 45.0)
    patience.gave_up("resource", SILENT, own=True)
    assert outage.known("resource") is None


def test_an_answer_before_the_last_try_does_not_count(outage: Outage, clock: FakeClock) -> None:
    patience = outage.begin("auth", "attest")
    outage.answered("auth")  # then it went away
    clock.advance(10.0)
    outage.failed("auth", 0.0)
    patience.gave_up("auth", REFUSED, own=True)
    assert outage.known("auth") is not None


@pytest.mark.parametrize(
    "code", [ErrorCode.EVIDENCE_TIMEOUT, ErrorCode.RESOURCE_DENIED, ErrorCode.GUEST_EXHAUSTED]
)
def test_what_is_not_the_brokers_is_no_outage(outage: Outage, clock: FakeClock, code: ErrorCode) -> None:
    for step in ("", "auth", "resource"):
        patience = outage.begin("auth")
        clock.advance(20.0)
        patience.gave_up(step, AgentError(code), own=True)
        assert outage.known("auth") is None


def test_nothing_of_a_request_is_kept_with_its_reason(outage: Outage, clock: FakeClock) -> None:
    patience = outage.begin("auth")
    clock.advance(20.0)
    try:
        raise AgentError(ErrorCode.KBS_BUSY, "503")
    except AgentError as error:
        patience.gave_up("auth", error, own=True)
    known = outage.known("auth")
    assert known is not None
    assert known.reason.__traceback__ is None


def test_time_in_which_nobody_waited_is_not_counted(outage: Outage, clock: FakeClock) -> None:
    patience = outage.begin("auth")
    clock.advance(9.0)
    patience.restart()
    assert patience.left(REFUSED) == 10.0


STEPS = st.sampled_from(["auth", "attest", "resource"])
ERRORS = st.sampled_from([REFUSED, SILENT, BUSY, UNJUDGED])


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("answered"), STEPS, ERRORS, st.just(0.0)),
            st.tuples(st.just("spend"), STEPS, ERRORS, st.floats(0, 45)),
            st.tuples(st.just("advance"), STEPS, ERRORS, st.floats(0, 30)),
        ),
        max_size=20,
    )
)
def test_however_it_goes_time_is_bounded_and_an_answer_makes_patient(
    events: list[tuple[str, str, AgentError, float]],
) -> None:
    clock = FakeClock()
    outage = Outage(clock, 10.0)
    for what, step, error, seconds in events:
        if what == "advance":
            clock.advance(seconds)
        elif what == "answered":
            outage.answered(step)
            assert outage.known(step) is None
            assert outage.limit(step) == math.inf
        else:
            assert spend(outage, step, error, each=seconds) <= 10.0 + limits.RETRY_LEAST + 45.0
        for one in ("auth", "attest", "resource"):
            assert outage.limit(one) >= limits.OUTAGE_TRY_LEAST
            known = outage.known(one)
            assert known is None or 0 < known.until - clock.boot() <= limits.OUTAGE_KNOWN + 1e-6
            left = Patience(outage, clock.boot(), known).left(error)
            assert (left == 0.0) is (known is not None)
