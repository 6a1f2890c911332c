"""Circuit breakers and the order of endpoints, without sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import limits
from agent.config.model import Kbs, KbsServer
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.kbs.credential import SessionRef
from agent.kbs.endpoints import ELSEWHERE, Breaker, Endpoint, Endpoints, Health
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

A, B, C = (f"https://{name}.example" for name in "abc")


def breaker(clock: FakeClock, chance: float = 1.0) -> Breaker:
    return Breaker(clock, lambda: chance)


def broken(clock: FakeClock, chance: float = 1.0) -> Breaker:
    made = breaker(clock, chance)
    for _ in range(limits.BREAKER_FAILURES):
        made.failed()
    return made


def endpoints(clock: FakeClock, *urls: str) -> Endpoints:
    servers = tuple(KbsServer(url) for url in urls)
    return Endpoints(Kbs(url=urls[0], endpoints=servers), clock, lambda: 1.0)


def order(found: tuple[Endpoint, ...]) -> list[str]:
    return [endpoint.base for endpoint in found]


# --- breaker --------------------------------------------------------------------------------------
def test_it_opens_after_failures_in_a_row() -> None:
    made = breaker(FakeClock())
    for _ in range(limits.BREAKER_FAILURES - 1):
        made.failed()
        assert made.health() is Health.CLOSED
    made.failed()
    assert made.health() is Health.OPEN


def test_a_success_in_between_counts() -> None:
    made = breaker(FakeClock())
    for _ in range(10):
        made.failed()
        made.succeeded()
    assert made.health() is Health.CLOSED


def test_after_a_pause_one_request_may_try() -> None:
    clock = FakeClock()
    made = broken(clock)
    assert made.begin() is False
    clock.advance(limits.BREAKER_FIRST_PAUSE)
    assert made.health() is Health.HALF_OPEN
    assert made.begin() is True
    assert made.health() is Health.OPEN  # for all others
    assert made.begin() is False
    made.succeeded()
    made.end()
    assert made.health() is Health.CLOSED


def test_a_probe_that_fails_doubles_the_pause() -> None:
    clock = FakeClock()
    made = broken(clock)
    for pause in (2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        clock.advance(pause - 0.01)
        assert made.health() is Health.OPEN
        clock.advance(0.01)
        assert made.begin() is True
        made.failed()
        made.end()


def test_a_probe_that_is_cancelled_leaves_the_next_one_to_try() -> None:
    clock = FakeClock()
    made = broken(clock)
    clock.advance(limits.BREAKER_FIRST_PAUSE)
    assert made.begin()
    made.end()
    assert made.health() is Health.HALF_OPEN


def test_failures_of_what_was_under_way_do_not_add_up() -> None:
    clock = FakeClock()
    made = broken(clock)
    for _ in range(100):
        made.failed()
    clock.advance(limits.BREAKER_FIRST_PAUSE)
    assert made.health() is Health.HALF_OPEN


def test_the_pause_is_spread() -> None:
    clock = FakeClock()
    made = broken(clock, chance=0.0)
    clock.advance(limits.BREAKER_FIRST_PAUSE / 2)
    assert made.health() is Health.HALF_OPEN


def test_an_endpoint_that_asks_for_time_gets_it() -> None:
    clock = FakeClock()
    made = breaker(clock)
    made.failed(weight=limits.BREAKER_FAILURES, least=20.0)
    clock.advance(19.9)
    assert made.health() is Health.OPEN
    clock.advance(0.1)
    assert made.health() is Health.HALF_OPEN


@given(st.lists(st.sampled_from(["begin", "end", "ok", "fail", "wait"]), max_size=60))
@settings(max_examples=150)
def test_whatever_happens_it_can_close_again(steps: list[str]) -> None:
    clock = FakeClock()
    made = breaker(clock)
    doing: dict[str, Callable[[], object]] = {
        "begin": made.begin,
        "end": made.end,
        "ok": made.succeeded,
        "fail": made.failed,
        "wait": lambda: clock.advance(3.0),
    }
    for step in steps:
        doing[step]()
    made.end()
    clock.advance(limits.BREAKER_LONGEST_PAUSE)
    assert made.health() is not Health.OPEN
    made.begin()
    made.succeeded()
    made.end()
    assert made.health() is Health.CLOSED


# --- what counts ----------------------------------------------------------------------------------
@pytest.mark.parametrize("code", [code for code in ErrorCode if code in ELSEWHERE])
def test_one_slow_failure_is_enough(code: ErrorCode) -> None:
    endpoint = endpoints(FakeClock(), A).all[0]
    endpoint.failed(AgentError(code), 1.5)
    assert endpoint.breaker.health() is Health.OPEN
    assert endpoint.last is code


def test_quick_failures_take_three() -> None:
    endpoint = endpoints(FakeClock(), A).all[0]
    endpoint.failed(AgentError(ErrorCode.KBS_UNREACHABLE), 0.001)
    endpoint.failed(AgentError(ErrorCode.KBS_UNREACHABLE), 0.001)
    assert endpoint.breaker.health() is Health.CLOSED
    endpoint.failed(AgentError(ErrorCode.KBS_UNREACHABLE), 0.001)
    assert endpoint.breaker.health() is Health.OPEN


def test_callers_in_a_hurry_shut_nothing() -> None:
    endpoint = endpoints(FakeClock(), A).all[0]
    for _ in range(100):
        endpoint.failed(AgentError(ErrorCode.KBS_TIMEOUT), 0.01, cut=True)
    assert endpoint.breaker.health() is Health.CLOSED


@pytest.mark.parametrize("problem", ["PolicyDeny", None])
def test_refusals_do_not_count(problem: str | None) -> None:
    endpoint = endpoints(FakeClock(), A).all[0]
    for _ in range(10):
        endpoint.failed(AgentError(ErrorCode.RESOURCE_DENIED, problem=problem), 5.0)
    assert endpoint.breaker.health() is Health.CLOSED


# --- order ----------------------------------------------------------------------------------------
def test_as_configured_while_all_are_well() -> None:
    made = endpoints(FakeClock(), A, B, C)
    assert order(made.for_handshake()) == [A, B, C]
    assert order(made.for_resource("")) == [A, B, C]


def test_a_resource_is_asked_for_where_the_token_comes_from() -> None:
    made = endpoints(FakeClock(), A, B, C)
    assert order(made.for_resource(C)) == [C, A, B]
    assert order(made.for_resource("https://passport.example")) == [A, B, C]


def test_health_comes_first_and_nobody_is_left_out() -> None:
    clock = FakeClock()
    made = endpoints(clock, A, B, C)
    made.all[0].failed(AgentError(ErrorCode.KBS_TIMEOUT), 5.0)
    assert order(made.for_resource(A)) == [B, C, A]
    made.all[1].failed(AgentError(ErrorCode.KBS_TIMEOUT), 5.0)
    clock.advance(limits.BREAKER_FIRST_PAUSE)
    made.all[0].breaker.begin()  # a probe is under way
    assert order(made.for_resource(A)) == [C, B, A]


def test_a_handshake_that_broke_off_sends_the_next_one_elsewhere() -> None:
    clock = FakeClock()
    made = endpoints(clock, A, B)
    made.handshake_failed(made.all[0])
    made.all[0].breaker.succeeded()  # it answers /auth and resources
    assert order(made.for_handshake()) == [B, A]
    assert order(made.for_resource("")) == [A, B]
    clock.advance(limits.BREAKER_LONGEST_PAUSE)
    assert order(made.for_handshake()) == [A, B]


def test_each_one_has_its_own_trust_or_the_common_one() -> None:
    pin, other = bytes(32), bytes(31) + b"x"
    servers = (KbsServer(A, pins=(other,)), KbsServer(B), KbsServer(C, extra_roots="PEM"))
    made = Endpoints(
        Kbs(url=B, pins=(pin,), extra_roots="common", endpoints=servers, proxy="http://proxy"),
        FakeClock(),
        lambda: 0.5,
    )
    assert [(one.settings.pins, one.settings.extra_roots) for one in made.all] == [
        ((other,), ""),
        ((pin,), "common"),
        ((), "PEM"),
    ]
    assert {one.settings.proxy for one in made.all} == {"http://proxy"}


def test_a_list_for_another_broker_is_not_used() -> None:
    made = Endpoints(Kbs(url=C, endpoints=(KbsServer(A), KbsServer(B))), FakeClock(), lambda: 0.5)
    assert order(made.all) == [C]


def test_sessions_that_are_gone_are_remembered_for_a_while() -> None:
    endpoint = endpoints(FakeClock(), A).all[0]
    known, gone = (SessionRef(Secret(cookie), A, 60.0) for cookie in (b"known", b"gone"))
    endpoint.forget(gone)
    assert endpoint.forgot(gone)
    assert not endpoint.forgot(known)
    assert not endpoint.forgot(None)
