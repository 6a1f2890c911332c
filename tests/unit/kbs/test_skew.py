from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import limits
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.kbs.skew import ClockSkew, explain, parse_date
from agent.observe.metrics import Metrics
from tests.unit.kbs import PROPERTY

WALL = 1_790_000_000.0


def date(seconds: float) -> str:
    return formatdate(seconds, usegmt=True)


def known(ahead: float) -> tuple[FakeClock, ClockSkew]:
    clock = FakeClock(wall=WALL)
    skew = ClockSkew(clock)
    skew.observe(date(WALL - ahead))
    return clock, skew


# --- the date -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Tue, 29 Feb 2028 23:59:59 GMT", 1835481599),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 1483228800),  # a leap second
        ("Fri, 31 Dec 9999 23:59:59 GMT", 253402300799),
    ],
)
def test_dates(text: str, seconds: int) -> None:
    assert parse_date(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Mon, 06 Nov 1994 08:49:37 GMT",  # it was a Sunday
        "sun, 06 nov 1994 08:49:37 gmt",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Wed, 30 Feb 2028 00:00:00 GMT",
        "Mon, 00 Jan 0000 00:00:00 GMT",
        "Wed, 31 Dec 1969 23:59:59 GMT",
        " Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT\n",
        "Sun, \u0660\u0666 Nov 1994 08:49:37 GMT",
    ],
)
def test_what_is_no_date(text: str) -> None:
    assert parse_date(text) is None


@PROPERTY
@given(st.integers(0, 253402300799))
def test_every_date_that_is_written_is_read(seconds: int) -> None:
    text = datetime.fromtimestamp(seconds, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    # strftime does not pad the year on every platform
    weekday, day, month, year, rest = text.split(" ", 4)
    assert parse_date(f"{weekday} {day} {month} {year:0>4} {rest}") == seconds


@PROPERTY
@given(st.one_of(st.text(max_size=40), st.from_regex(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} .*")))
def test_anything_else_is_ignored(text: str) -> None:
    parsed = parse_date(text)
    assert parsed is None or parsed >= 0
    skew = ClockSkew(FakeClock())
    skew.observe(text)
    assert (skew.offset() is None) == (parsed is None)


# --- the offset -----------------------------------------------------------------------------------
def test_nothing_is_known_before_the_first_answer() -> None:
    assert ClockSkew(FakeClock()).offset() is None


@pytest.mark.parametrize("ahead", [0.0, 95.0, -3600.0])
def test_the_offset_is_good_to_a_second(ahead: float) -> None:
    _, skew = known(ahead)
    assert skew.offset() == pytest.approx(ahead, abs=1)


def test_half_the_round_trip_is_taken_into_account() -> None:
    skew = ClockSkew(FakeClock(wall=WALL))
    skew.observe(date(WALL - 5), took=10.0)  # written half way: the clocks agree
    assert skew.offset() == pytest.approx(0, abs=1)


@pytest.mark.parametrize("took", [math.nan, math.inf, -math.inf])
def test_a_round_trip_that_is_no_time_is_ignored(took: float) -> None:
    skew = ClockSkew(FakeClock(wall=WALL))
    skew.observe(date(WALL), took=took)
    assert skew.offset() is None


def test_the_offset_follows_when_somebody_sets_the_clock() -> None:
    clock, skew = known(0)
    clock.advance(1000)
    assert skew.offset() == pytest.approx(0, abs=1)
    clock.jump_wall(-400)
    assert skew.offset() == pytest.approx(-400, abs=1)


def test_one_answer_that_is_off_does_not_decide() -> None:
    _, skew = known(0)
    skew.observe(date(WALL))
    skew.observe(date(WALL - 100_000))
    assert skew.offset() == pytest.approx(0, abs=1)


def test_old_answers_are_forgotten() -> None:
    _, skew = known(0)
    for _ in range(limits.SKEW_SAMPLES):
        skew.observe(date(WALL - 500))
    assert skew.offset() == pytest.approx(500, abs=1)


def test_it_is_exported() -> None:
    metrics, clock = Metrics(), FakeClock(wall=WALL)
    skew = ClockSkew(clock)
    metrics.watch_clock(skew.offset)
    assert b"\ncoco_clock_skew_seconds NaN" in metrics.render()
    skew.observe(date(WALL - 120))
    value = metrics.registry.get_sample_value("coco_clock_skew_seconds")
    assert value == pytest.approx(120, abs=1)


# --- what it explains -----------------------------------------------------------------------------
REJECTED = AgentError(ErrorCode.TOKEN_REJECTED, "/resource answered 401", problem="TokenVerifierError")
EXPIRED = AgentError(ErrorCode.KBS_TLS_FAILED, "TLS: certificate has expired")
EARLY = AgentError(ErrorCode.KBS_TLS_FAILED, "TLS: certificate is not yet valid")


def test_a_fresh_token_that_is_refused_while_clocks_differ() -> None:
    error = explain(REJECTED, known(95)[1], just_attested=True)
    assert error.code is ErrorCode.CLOCK_SKEW
    assert "95 s ahead of" in error.detail or "94 s ahead of" in error.detail
    assert "/resource answered 401" in error.detail
    assert error.problem == "TokenVerifierError"


@pytest.mark.parametrize(("ahead", "just_attested"), [(95, False), (30, True), (-59, True), (0, True)])
def test_a_token_is_refused_for_another_reason(ahead: float, just_attested: bool) -> None:
    assert explain(REJECTED, known(ahead)[1], just_attested=just_attested) is REJECTED


@pytest.mark.parametrize("error", [EXPIRED, EARLY])
def test_a_certificate_whose_dates_do_not_fit_a_wrong_clock(error: AgentError) -> None:
    explained = explain(error, known(-7200)[1])
    assert explained.code is ErrorCode.CLOCK_SKEW
    assert "s behind the broker's" in explained.detail
    assert explain(error, known(0)[1]) is error


def test_a_clock_from_before_the_release_is_wrong_whatever_else_is_known() -> None:
    skew = ClockSkew(FakeClock(wall=0.0))
    explained = explain(EARLY, skew)
    assert explained.code is ErrorCode.CLOCK_SKEW
    assert "before this release" in explained.detail
    assert explain(EARLY, ClockSkew(FakeClock(wall=limits.RELEASED))) is EARLY


@pytest.mark.parametrize(
    "error",
    [
        AgentError(ErrorCode.KBS_TLS_FAILED, "TLS: self-signed certificate"),
        AgentError(ErrorCode.KBS_UNREACHABLE, "certificate has expired"),
        AgentError(ErrorCode.RESOURCE_DENIED),
    ],
)
def test_other_failures_are_left_alone(error: AgentError) -> None:
    assert explain(error, known(9999)[1], just_attested=True) is error


def test_without_an_estimate_nothing_is_blamed() -> None:
    assert explain(REJECTED, None, just_attested=True) is REJECTED
    assert explain(REJECTED, ClockSkew(FakeClock()), just_attested=True) is REJECTED
