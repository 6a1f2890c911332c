"""Pauses, and what is remembered of a broker's failures."""

from __future__ import annotations

import pytest

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.kbs.retry import Backoff, Trouble

BUSY = AgentError(ErrorCode.KBS_BUSY)


@pytest.mark.parametrize("failed", [1, 2, 3, 10, 1000])
def test_pauses_grow_to_a_bound_and_jitter_fully(failed: int) -> None:
    bound = min(limits.RETRY_LONGEST_PAUSE, limits.RETRY_FIRST_PAUSE * 2.0 ** (failed - 1))
    assert Backoff().pause(failed, BUSY, lambda: 0.0) == 0.0
    assert Backoff().pause(failed, BUSY, lambda: 1.0) == pytest.approx(bound)


def test_what_the_broker_asks_for_is_the_least() -> None:
    asked = AgentError(ErrorCode.KBS_BUSY, retry_after=7.0)
    assert Backoff().pause(1, asked, lambda: 0.0) == 7.0
    absurd = AgentError(ErrorCode.KBS_BUSY, retry_after=1e9)
    assert Backoff().pause(1, absurd, lambda: 0.0) == limits.RETRY_AFTER_MAX


@pytest.mark.parametrize("code", [ErrorCode.RESOURCE_DENIED, ErrorCode.PROTOCOL_MISMATCH, ErrorCode.NO_TEE])
def test_final_answers_are_not_asked_for_again(code: ErrorCode) -> None:
    assert Backoff().pause(1, AgentError(code), lambda: 0.5) is None


def test_failures_count_on_from_request_to_request_and_are_taken_back_one_by_one() -> None:
    trouble = Trouble()
    assert [trouble.failed(1) for _ in range(10)] == [1, 2, 3, 4, 5, 6, 6, 6, 6, 6]
    assert trouble.failed(9) == 9
    for _ in range(4):
        trouble.eased()
    assert trouble.failed(1) == 3
    for _ in range(10):
        trouble.eased()
    assert trouble.failed(1) == 1
