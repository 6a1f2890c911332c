from __future__ import annotations

import pickle
import re
import types
from typing import Any

import pytest

from agent.errors import AgentError, ErrorCode, Fault, RpcCode

CODES = list(ErrorCode)
STATUSES = {400, 401, 403, 404, 405, 409, 413, 429, 500, 502, 503, 504}


def test_no_two_codes_share_their_meaning() -> None:
    # An enum turns equal values into aliases: one of the two names would silently vanish.
    assert len(ErrorCode.__members__) == len(CODES)


def test_the_set_is_closed() -> None:
    with pytest.raises(TypeError):
        types.new_class("More", (ErrorCode,))
    with pytest.raises(KeyError):
        ErrorCode["SOMETHING_NEW"]


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_a_code_says_something_to_each_audience(code: ErrorCode) -> None:
    meaning = code.meaning
    assert re.fullmatch(r"[A-Z][A-Z0-9_]*", code.name)
    assert meaning.message.endswith(".")
    assert meaning.message[0].isupper()
    assert "\n" not in meaning.message
    assert len(meaning.message) <= 120
    assert len(meaning.hint) >= 20
    assert meaning.hint != meaning.message


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_a_message_holds_no_placeholder_and_no_address(code: ErrorCode) -> None:
    # The message goes to every caller and to the host's console.
    assert not re.search(r"[{}%<>$]|://|/cdh|/run|\.toml", code.meaning.message)


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_statuses_are_the_ones_in_the_interface(code: ErrorCode) -> None:
    assert code.meaning.rest in STATUSES
    assert code.meaning.rpc in set(RpcCode) - {RpcCode.OK}


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_the_status_agrees_with_who_is_at_fault(code: ErrorCode) -> None:
    meaning = code.meaning
    if meaning.fault is Fault.HARDWARE:
        assert meaning.rest == (504 if meaning.rpc is RpcCode.DEADLINE_EXCEEDED else 503)
    if meaning.fault is Fault.CALLER and code is not ErrorCode.CANCELLED:
        assert 400 <= meaning.rest < 500
    if meaning.retry:
        assert meaning.rest >= 500  # "try again" is never the answer to a wrong request


def test_an_error_shows_its_code_and_cause_to_the_operator_only() -> None:
    error = AgentError(ErrorCode.KBS_UNREACHABLE, "connection refused", problem="Thing")
    assert str(error) == "KBS_UNREACHABLE: connection refused"
    assert "refused" not in error.message
    assert error.hint
    assert error.problem == "Thing"
    assert str(AgentError(ErrorCode.INTERNAL)) == "INTERNAL"


def test_an_error_survives_a_process_boundary() -> None:
    copy: Any = pickle.loads(pickle.dumps(AgentError(ErrorCode.NO_TEE, "no probe")))  # noqa: S301 - our own
    assert (copy.code, copy.detail) == (ErrorCode.NO_TEE, "no probe")
