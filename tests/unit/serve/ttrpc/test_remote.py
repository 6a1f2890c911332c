from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.serve.ttrpc.codec import StatusError
from agent.serve.ttrpc.remote import RemoteAttester, remote_error
from agent.serve.ttrpc.services import failure

FALLBACK = ErrorCode.ROLE_UNREACHABLE


@pytest.mark.parametrize("code", list(ErrorCode), ids=lambda code: code.name)
def test_an_error_of_our_agent_survives_the_wire(code: ErrorCode) -> None:
    status = failure("[CDH] [ERROR]: Get Resource failed", AgentError(code, "detail"), "0123456789abcdef")
    error = remote_error(status, "GetResource", FALLBACK)
    assert error.code is code
    assert "0123456789abcdef" in error.detail


@pytest.mark.parametrize(
    ("status", "fallback", "expected"),
    [
        (13, ErrorCode.ROLE_UNREACHABLE, ErrorCode.ROLE_UNREACHABLE),
        (13, ErrorCode.EVIDENCE_FAILED, ErrorCode.EVIDENCE_FAILED),
        (4, FALLBACK, ErrorCode.DEADLINE_EXCEEDED),
        (8, FALLBACK, ErrorCode.TOO_MANY_REQUESTS),
        (12, FALLBACK, ErrorCode.NOT_SUPPORTED),
        (5, ErrorCode.NOT_SUPPORTED, ErrorCode.NOT_SUPPORTED),
        (99, FALLBACK, FALLBACK),
        (-1, FALLBACK, FALLBACK),
    ],
)
def test_another_agent_s_status_is_understood(status: int, fallback: ErrorCode, expected: ErrorCode) -> None:
    error = remote_error(StatusError(status, "[CDH] [ERROR]: Get Resource failed"), "X", fallback)
    assert error.code is expected


def test_a_code_that_does_not_exist_is_not_believed() -> None:
    status = StatusError(13, "x (MADE_UP, request 0123456789abcdef)")
    assert remote_error(status, "X", FALLBACK).code is FALLBACK


@settings(max_examples=100)
@given(st.integers(-(2**31), 2**31 - 1), st.text(max_size=300))
def test_a_peer_s_text_cannot_forge_log_lines(code: int, message: str) -> None:
    error = remote_error(StatusError(code, message), "X", FALLBACK)
    assert isinstance(error, AgentError)
    assert error.detail.isascii()
    assert error.detail.isprintable()
    assert len(error.detail) < 2000


def test_a_bad_address_is_told_at_once() -> None:
    with pytest.raises(AgentError) as caught:
        RemoteAttester("tcp://1.2.3.4")
    assert caught.value.code is ErrorCode.CONFIG_INVALID
