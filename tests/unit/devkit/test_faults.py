from __future__ import annotations

import json

import pytest
from jwcrypto.common import JWException  # type: ignore[import-untyped]

from agent.devkit.clock import FakeClock
from agent.devkit.kbs import Fault, Kind, Settings, jwe, wire
from agent.devkit.kbs.broker import Broker
from agent.devkit.kbs.faults import Faults
from tests.unit.devkit.guest import REQUEST, RFC7515_KEY, Guest, attest, cookie_of, get, post, problem
from tests.unit.devkit.test_jwe import rsa_pair


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


def test_a_replayed_nonce_is_another_sessions_and_attest_refuses_it() -> None:
    broker, guest = Broker(Settings(), FakeClock()), Guest()
    replay = Fault(Kind.REPLAYED_NONCE)
    challenges = [broker.answer(post("auth", REQUEST), fault) for fault in (replay, None, replay)]
    first, good, second = (json.loads(challenge.body)["nonce"] for challenge in challenges)
    assert first == second != good
    refused = broker.answer(post("attest", guest.attestation(second), cookie_of(challenges[2])))
    assert problem(refused)[:2] == (401, "AttestationError")


@pytest.mark.parametrize("curve", ["P-256", "P-521"])
def test_answers_to_a_stranger_are_well_formed_and_not_for_the_guest(curve: str) -> None:
    broker, guest = Broker(Settings(), FakeClock()), Guest(curve)
    broker.repository.put("default/key/1", b"value", "resource")
    jwt, _ = attest(broker, guest)

    def header(body: bytes) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = json.loads(wire.unb64url(json.loads(body)["protected"]))
        return found

    good, wrong, other = (
        broker.answer(get("resource/default/key/1", bearer=jwt), fault).body
        for fault in (None, Fault(Kind.WRONG_KEY), Fault(Kind.WRONG_CURVE))
    )
    assert guest.decrypt(good) == b"value"
    assert header(wrong)["epk"]["crv"] == curve
    assert header(other)["epk"]["crv"] != curve
    for body in (wrong, other):
        with pytest.raises(JWException):
            guest.decrypt(body)


def test_strangers_of_rsa_keys() -> None:
    public = rsa_pair()[1]
    same, other = jwe.stranger(public), jwe.stranger(public, other_curve=True)
    assert isinstance(same, wire.RsaKey)
    assert (same.alg, same.n != public.n) == (public.alg, True)
    assert isinstance(other, wire.EcKey)
    members = {name: value for name, value in RFC7515_KEY.items() if name != "kty"}
    assert jwe.stranger(wire.EcKey(**members)) != wire.EcKey(**members)
