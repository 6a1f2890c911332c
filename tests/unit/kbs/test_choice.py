"""Token or cookie, pauses, cookies' lives and ``Retry-After``."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.kbs import choice
from agent.kbs.choice import Credential, pause_within
from agent.kbs.credential import SessionRef
from agent.kbs.headers import session_cookie, session_life
from agent.secret import Secret

HERE = "https://kbs.example"
SESSION = SessionRef(Secret(b"cookie"), HERE, 100.0)
LOST = AgentError(ErrorCode.KBS_UNREACHABLE)
BAD = AgentError(ErrorCode.KBS_BAD_RESPONSE)
BIG = 200 * limits.KIB


# --- which credential -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("session", "endpoint", "now", "expected"),
    [
        (SESSION, HERE, 0.0, True),
        (SESSION, HERE, 97.9, True),
        (SESSION, HERE, 98.0, False),
        (SESSION, HERE, 1e9, False),
        (SESSION, "https://kbs.example:8080", 0.0, False),
        (SESSION, "http://kbs.example", 0.0, False),
        (SESSION, "", 0.0, False),
        (None, HERE, 0.0, False),
    ],
)
def test_a_session_is_good_at_its_endpoint_and_in_its_time(
    session: SessionRef | None, endpoint: str, now: float, *, expected: bool
) -> None:
    assert choice.usable(session, endpoint, now) is expected


@pytest.mark.parametrize(
    ("size", "usable", "expected"),
    [
        (0, True, Credential.BEARER),
        (limits.TOKEN_HEADER, True, Credential.BEARER),
        (limits.TOKEN_HEADER + 1, True, Credential.COOKIE),
        (limits.TOKEN_HEADER + 1, False, Credential.BEARER),
    ],
)
def test_only_a_large_token_is_stood_for(size: int, expected: Credential, *, usable: bool) -> None:
    assert choice.choose(size, limits.TOKEN_HEADER, usable=usable) is expected


@pytest.mark.parametrize(
    ("error", "status", "connected", "size", "expected"),
    [
        (BAD, 431, True, BIG, True),
        (BAD, 400, True, BIG, True),
        (BAD, 404, True, BIG, False),
        (LOST, None, True, BIG, True),
        (LOST, None, False, BIG, False),
        (AgentError(ErrorCode.KBS_TIMEOUT), None, True, BIG, False),
        (BAD, 431, True, 2000, False),
        (LOST, None, True, 2000, False),
        (BAD, 431, True, 0, False),
        (AgentError(ErrorCode.INVALID_URI, problem="InvalidRequestPath"), 400, True, BIG, False),
    ],
)
def test_what_says_that_the_head_is_too_large(
    error: AgentError, status: int | None, size: int, *, connected: bool, expected: bool
) -> None:
    assert choice.head_refused(error, status, connected=connected, size=size) is expected


# --- pauses ---------------------------------------------------------------------------------------
def test_final_errors_and_callers_without_time_end_the_tries() -> None:
    assert pause_within(1, AgentError(ErrorCode.RESOURCE_DENIED), lambda: 0.5, 50.0) is None
    assert pause_within(1, LOST, lambda: 0.5, limits.RETRY_LEAST / 2) is None
    assert pause_within(1, LOST, lambda: 0.5, 0.0) is None


def test_a_pause_that_would_outlast_the_caller_leads_to_a_last_try() -> None:
    pause = pause_within(20, LOST, lambda: 1.0, 10.0)
    assert pause == pytest.approx(9.0)


def test_what_the_broker_asks_for_is_never_cut() -> None:
    asked = AgentError(ErrorCode.KBS_BUSY, retry_after=30.0)
    assert pause_within(1, asked, lambda: 1.0, 29.0) is None
    pause = pause_within(20, asked, lambda: 1.0, 40.0)
    assert pause is not None
    assert 30.0 <= pause < 40.0


@given(
    st.integers(1, 10_000),
    st.floats(0, 1),
    st.floats(0, 1e6),
    st.none() | st.floats(0, 1e6),
    st.sampled_from([ErrorCode.KBS_UNREACHABLE, ErrorCode.KBS_BUSY, ErrorCode.JWE_INVALID]),
)
@settings(max_examples=200)
def test_every_pause_ends_before_the_deadline(
    failed: int, chance: float, left: float, asked: float | None, code: ErrorCode
) -> None:
    pause = pause_within(failed, AgentError(code, retry_after=asked), lambda: chance, left)
    if pause is not None:
        assert min(asked or 0.0, limits.RETRY_AFTER_MAX) <= pause < left


# --- cookies --------------------------------------------------------------------------------------
DATE = "Sun, 22 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("cookie", "date", "life"),
    [
        ("kbs-session-id=a; Expires=Sun, 22 Nov 2026 12:05:00 GMT", DATE, 300.0),
        ("kbs-session-id=a; Path=/; expires=Sun, 22 Nov 2026 12:01:00 GMT; Secure", DATE, 60.0),
        ("kbs-session-id=a; Expires=Sun, 22 Nov 2026 11:00:00 GMT", DATE, 0.0),
        ("kbs-session-id=a; Expires=Sun, 22 Nov 2099 12:00:00 GMT", DATE, limits.SESSION_MAX_LIFE),
        ("kbs-session-id=a; Expires=tomorrow", DATE, limits.SESSION_LIFE),
        ("kbs-session-id=a", DATE, limits.SESSION_LIFE),
        ("kbs-session-id=a; Expires=Sun, 22 Nov 2026 12:05:00 GMT", "", limits.SESSION_LIFE),
        ("other=a; Expires=Sun, 22 Nov 2026 12:01:00 GMT", DATE, limits.SESSION_LIFE),
    ],
)
def test_a_session_lives_by_the_brokers_clock(cookie: str, date: str, life: float) -> None:
    assert session_life((cookie,), date) == life


@given(st.lists(st.text(max_size=80), max_size=4), st.text(max_size=40))
@settings(max_examples=200)
def test_any_cookie_lines_are_read_or_refused(lines: list[str], date: str) -> None:
    assert 0.0 <= session_life(tuple(lines), date) <= limits.SESSION_MAX_LIFE
    try:
        cookie = session_cookie(tuple(lines))
    except AgentError:
        return
    assert cookie.isascii()
    assert cookie.isprintable()
