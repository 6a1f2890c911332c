from __future__ import annotations

import base64
import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.devkit.kbs import verifiers, wire

from .guest import RFC7515_KEY, Guest, digest, evidence

NONCE = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
DEVICES = (
    '{"sampledevice":{"report_data":"zBK8p4rz5G2d22jrlxIgR6u1JwPxzsNL0K3BLFrIyGCxrabIcp5U8hcpCLd1cjZK",'
    '"svn":"2"}}'
)


def check(body: dict[str, Any], tee: str = "sample", algorithm: str = "sha384") -> list[verifiers.Appraisal]:
    parsed = wire.decode(json.dumps(body).encode(), wire.Attestation)
    return verifiers.verify(tee, parsed, algorithm)


def worked_example(report_data: str, additional: str = "") -> dict[str, Any]:
    return {
        "init-data": None,
        "runtime-data": {"nonce": NONCE, "tee-pubkey": RFC7515_KEY},
        "tee-evidence": {
            "primary_evidence": {"svn": "1", "report_data": report_data},
            "additional_evidence": additional,
        },
    }


def hashed(key: dict[str, str], nonce: str, additional: str | None) -> str:
    runtime = wire.RuntimeData(nonce, wire.EcKey(key["alg"], key["crv"], key["x"], key["y"]))
    return wire.report_data(wire.runtime_claims(runtime, additional), "sha384").hex()


def test_report_data_of_the_protocol_sheet() -> None:
    runtime = wire.RuntimeData(
        NONCE, wire.EcKey("ECDH-ES+A256KW", "P-256", RFC7515_KEY["x"], RFC7515_KEY["y"])
    )
    primary = wire.runtime_claims(runtime, "")
    assert len(wire.canonical(primary)) == 244
    expected = {
        "sha256": "12ca65009a0e2f7928be9ffe3a9c4c4a4f9d2005cbb04e4cafb5813fec10174a",
        "sha384": "dfa65d498315212bdaf8857231cf0482172933db271f15856bf30db447227eb5"
        "b1dd9e29fcc1fb9076fb00792c3bb7e7",
        "sha512": "f30620e2296f8fae4f6be275a1d3f775ed4f36d1ecfe898480ec95aac074f316"
        "5510bc7f994d4736af1bc835bd756d38ca6be9d174875e9316c338523c20994b",
    }
    assert {name: wire.report_data(primary, name).hex() for name in expected} == expected
    device = wire.runtime_claims(runtime, None)
    assert wire.report_data(device, "sha256").hex() == (
        "30ab63ab5ab8450a5c75cfedaafa8f3d8c92593c6a1025bfcb41f379ce0b5895"
    )


def test_report_data_of_the_attester_sheet() -> None:
    key = {
        "alg": "ECDH-ES+A256KW",
        "crv": "P-256",
        "x": "WKn-ZIGevcwGIyyrzFoZNBdaq9_TsqzGl96oc0CWuis",
        "y": "y77t-RvAHRKTsSGdIYUfweuOvwrvDD-Q3Hv5J0fSKbE",
    }
    nonce = base64.b64encode(bytes(32)).decode()
    devices = (
        '{"sampledevice":{"report_data":"DfIP2KqZpMrHy4OPeQjvbJYA3pfrOzqJfq/Ddx1xALMWDhNxhAQvEJIN0msu+Taj",'
        '"svn":"2"}}'
    )
    assert hashed(key, nonce, None) == (
        "0df20fd8aa99a4cac7cb838f7908ef6c9600de97eb3b3a897eafc3771d7100b3160e137184042f10920dd26b2ef936a3"
    )
    assert hashed(key, nonce, "") == (
        "28397a50c1ed63482150f0856939e35cc03da796758f324e96a25ed7bd41e6dabeee794131c7fa8db27639f9207cd526"
    )
    assert hashed(key, nonce, devices) == (
        "a733ce93a37ce7e441c8417f8b9e4482dad97183044d37abdfca62bde76904e2020143660736c316ae9d02ff8254d8f6"
    )


def test_upstreams_own_canonicalisation_vector() -> None:
    assert wire.report_data({"b": 1, "a": "test", "c": {"d": "e"}}, "sha384").hex() == (
        "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c4597480a186427c813ca941da78870c3"
    )


def test_the_worked_examples_are_accepted() -> None:
    alone = check(worked_example("36ZdSYMVISva+IVyMc8EghcpM9snHxWFa/MNtEcifrWx3Z4p/MH7kHb7AHksO7fn"))
    assert [(found.tee, found.submod_class) for found in alone] == [("sample", "cpu")]
    both = check(worked_example("UZySmcHID/UWx/kSyhKxE/Up+MXFhCITbpGT87CRq2PcicyOrk2vkYR+mIUJNVBs", DEVICES))
    assert [(found.tee, found.submod_class) for found in both] == [("sample", "cpu"), ("sampledevice", "gpu")]


def test_members_the_broker_does_not_know_are_dropped_before_hashing() -> None:
    guest = Guest()
    body = guest.attestation("n")
    body["runtime-data"]["tee-pubkey"]["kid"] = "mine"
    body["runtime-data"]["extra"] = 1
    body["unknown"] = {}
    check(body)  # hashed without them by the guest: accepted
    runtime = {"nonce": "n", "tee-pubkey": guest.public | {"kid": "mine"}}
    body["tee-evidence"]["primary_evidence"] = evidence(digest({"additional-evidence": "", **runtime}))
    with pytest.raises(wire.MalformedError, match="report data"):
        check(body)


def flipped(text: str) -> str:
    raw = bytearray(base64.b64decode(text))
    raw[7] ^= 1
    return base64.b64encode(raw).decode()


@pytest.mark.parametrize("part", ["nonce", "key", "additional", "primary", "device"])
def test_one_flipped_bit_anywhere_is_refused(part: str) -> None:
    """SR-07: nonce, TEE key and devices are all bound by the report data."""
    body = Guest().attestation(NONCE, device=True)
    check(body)
    tampered = copy.deepcopy(body)
    tee = tampered["tee-evidence"]
    match part:
        case "nonce":
            tampered["runtime-data"]["nonce"] = flipped(NONCE)
        case "key":
            tampered["runtime-data"]["tee-pubkey"] = Guest().public
        case "additional":
            tee["additional_evidence"] = ""
        case "primary":
            tee["primary_evidence"]["report_data"] = flipped(tee["primary_evidence"]["report_data"])
        case "device":
            device = json.loads(tee["additional_evidence"])
            device["sampledevice"]["report_data"] = flipped(device["sampledevice"]["report_data"])
            tee["additional_evidence"] = json.dumps(device)
            runtime = {"additional-evidence": tee["additional_evidence"], **tampered["runtime-data"]}
            tee["primary_evidence"] = evidence(digest(runtime))
    with pytest.raises(wire.MalformedError, match="report data"):
        check(tampered)


@pytest.mark.parametrize("size", [0, 32, 64])
def test_padded_and_cut_report_data_is_refused(size: int) -> None:
    body = Guest().attestation("n")
    whole = base64.b64decode(body["tee-evidence"]["primary_evidence"]["report_data"])
    body["tee-evidence"]["primary_evidence"] = evidence((whole + bytes(16))[:size])
    with pytest.raises(wire.MalformedError, match="report data"):
        check(body)


@pytest.mark.parametrize("tee", ["snp", "tdx", "az-snp-vtpm", "az-tdx-vtpm", "tpm", "nvidia", "se", "sgx"])
def test_hardware_evidence_without_proof_is_refused_whatever_it_says(tee: str) -> None:
    why = f"^the development KBS verifies no '{tee}'" if tee in {"se", "sgx"} else f"^{tee}: format: "
    with pytest.raises(wire.MalformedError, match=why):
        check(Guest().attestation("n"), tee)
    body = Guest().attestation("n")
    additional = json.dumps({tee: {}})
    body["tee-evidence"]["additional_evidence"] = additional
    body["tee-evidence"]["primary_evidence"] = evidence(
        digest({"additional-evidence": additional, **body["runtime-data"]})
    )
    with pytest.raises(wire.MalformedError, match=why):
        check(body)


def test_an_empty_device_map_is_hashed_as_sent() -> None:
    body = Guest().attestation("n")
    body["tee-evidence"]["additional_evidence"] = "{}"
    with pytest.raises(wire.MalformedError, match="report data"):
        check(body)
    body["tee-evidence"]["primary_evidence"] = evidence(
        digest({"additional-evidence": "{}", **body["runtime-data"]})
    )
    assert len(check(body)) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150)
@given(primary=JSON, additional=JSON | st.text(max_size=30), init=JSON, loose=st.booleans())
def test_any_evidence_is_refused_cleanly(primary: Any, additional: Any, init: Any, loose: bool) -> None:
    body = Guest().attestation("n") if loose else worked_example("")
    body["tee-evidence"] = {
        "primary_evidence": primary,
        "additional_evidence": additional if isinstance(additional, str) else json.dumps(additional),
    }
    body["init-data"] = init
    with pytest.raises(wire.MalformedError):
        check(body)


@settings(max_examples=150)
@given(raw=st.binary(max_size=80))
def test_any_bytes_are_refused_cleanly(raw: bytes) -> None:
    for form in (wire.Request, wire.Attestation, wire.HashOffer):
        try:
            wire.decode(raw, form)
        except wire.MalformedError:
            continue
        assert raw.strip().startswith(b"{")


def test_nesting_without_end_is_refused_cleanly() -> None:
    for raw in (b"[" * 100_000, b'{"version":"0.4.0","tee":"sample","extra-params":' + b"[" * 100_000):
        with pytest.raises(wire.MalformedError):
            wire.decode(raw, wire.Request)
