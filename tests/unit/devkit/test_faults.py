from __future__ import annotations

import json

import pytest

from agent.devkit.kbs import Fault, Kind
from agent.devkit.kbs.faults import Faults


def test_a_fault_hits_its_endpoint_as_often_as_it_says() -> None:
    faults = Faults()
    fault = Fault(Kind.GARBAGE, times=2)
    faults.on("auth", fault)
    assert faults.take("attest") is None
    assert [faults.take("auth") for _ in range(3)] == [fault, fault, None]


def test_a_fault_without_times_hits_until_it_is_cleared() -> None:
    faults = Faults()
    faults.on("auth", Fault(Kind.RESET))
    faults.on("resource", Fault(Kind.RESET))
    assert all(faults.take("auth") for _ in range(5))
    faults.clear("auth")
    assert faults.take("auth") is None
    assert faults.take("resource")
    faults.clear()
    assert faults.take("resource") is None


def test_a_fault_can_let_requests_pass_first_and_others_queue_behind_it() -> None:
    faults = Faults()
    first, second = Fault(Kind.RESET, times=1, skip=1), Fault(Kind.GARBAGE, times=1)
    faults.on("resource", first)
    assert faults.take("resource") is None
    faults.on("resource", second)
    assert [faults.take("resource") for _ in range(3)] == [first, second, None]


def test_an_unknown_endpoint_is_an_error() -> None:
    with pytest.raises(KeyError):
        Faults().on("atest", Fault(Kind.RESET))
    with pytest.raises(ValueError, match="rset"):
        Fault("rset")


def test_kinds_may_be_named() -> None:
    assert Fault("version_mismatch").kind is Kind.VERSION_MISMATCH


def test_answers_that_replace_the_true_one() -> None:
    garbage = Fault(Kind.GARBAGE).instead()
    assert garbage is not None
    assert (garbage.status, garbage.content_type) == (200, "application/json")
    with pytest.raises(ValueError, match=r"utf-8|Expecting"):
        json.loads(garbage.body)
    status = Fault(Kind.STATUS, status=502, body=b"<html>", content_type="text/html").instead()
    assert status is not None
    assert (status.status, status.body, status.content_type) == (502, b"<html>", "text/html")
    problem = Fault(Kind.PROBLEM, problem="PluginNotFound", detail="d").instead()
    assert problem is not None
    assert (problem.status, problem.content_type) == (404, None)
    redirect = Fault(Kind.REDIRECT, to="http://elsewhere/").instead()
    assert redirect is not None
    assert (redirect.status, redirect.location) == (307, "http://elsewhere/")
    assert Fault(Kind.DELAY).instead() is None
