from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.kbs.handshake import (
    Challenge,
    attester_input,
    build_attestation,
    build_request,
    device_report_data,
    parse_challenge,
    parse_token_reply,
    primary_report_data,
)
from tests.unit.kbs import PROPERTY, outcome

# kbs_protocol.md 2.4: key of RFC 7515 appendix A.3, nonce of the bytes 00..1f.
NONCE = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
JWK = {
    "kty": "EC",
    "crv": "P-256",
    "alg": "ECDH-ES+A256KW",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}
DEVICE = (
    b'{"sampledevice":{"report_data":"zBK8p4rz5G2d22jrlxIgR6u1JwPxzsNL0K3BLFrIyGCxrabIcp5U8hcpCLd1cjZK",'
    b'"svn":"2"}}'
)
# attesters.md 15.3
NONCE_0 = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
JWK_0 = {
    "alg": "ECDH-ES+A256KW",
    "crv": "P-256",
    "kty": "EC",
    "x": "WKn-ZIGevcwGIyyrzFoZNBdaq9_TsqzGl96oc0CWuis",
    "y": "y77t-RvAHRKTsSGdIYUfweuOvwrvDD-Q3Hv5J0fSKbE",
}
DEVICE_0 = (
    b'{"sampledevice":{"report_data":"DfIP2KqZpMrHy4OPeQjvbJYA3pfrOzqJfq/Ddx1xALMWDhNxhAQvEJIN0msu+Taj",'
    b'"svn":"2"}}'
)


@pytest.mark.parametrize(
    ("hash_name", "digest"),
    [
        ("sha256", "30ab63ab5ab8450a5c75cfedaafa8f3d8c92593c6a1025bfcb41f379ce0b5895"),
        (
            "sha384",
            "cc12bca78af3e46d9ddb68eb97122047abb52703f1cec34bd0adc12c5ac8c860b1ada6c8729e54f2172908b77572364a",
        ),
        (
            "sha512",
            (
                "c684c8f25762554316a7de02f1ac12676cb856e6e575163d2c726cc826aec68ec911ef586739f6d130009de5942f4e97"
                "72cc6df3f131a34cd814636668399c64"
            ),
        ),
    ],
)
def test_device_vectors(hash_name: str, digest: str) -> None:
    assert device_report_data(Challenge(NONCE, hash_name), JWK).hex() == digest


@pytest.mark.parametrize(
    ("hash_name", "digest"),
    [
        ("sha256", "12ca65009a0e2f7928be9ffe3a9c4c4a4f9d2005cbb04e4cafb5813fec10174a"),
        (
            "sha384",
            "dfa65d498315212bdaf8857231cf0482172933db271f15856bf30db447227eb5b1dd9e29fcc1fb9076fb00792c3bb7e7",
        ),
        (
            "sha512",
            (
                "f30620e2296f8fae4f6be275a1d3f775ed4f36d1ecfe898480ec95aac074f3165510bc7f994d4736af1bc835bd756d38"
                "ca6be9d174875e9316c338523c20994b"
            ),
        ),
    ],
)
def test_primary_vectors(hash_name: str, digest: str) -> None:
    assert primary_report_data(Challenge(NONCE, hash_name), JWK, b"").hex() == digest


def test_composite_vector() -> None:
    challenge = Challenge(NONCE)
    digest = primary_report_data(challenge, JWK, DEVICE)
    assert digest.hex() == (
        "519c9299c1c80ff516c7f912ca12b113f529f8c5c58422136e9193f3b091ab63dc89cc8eae4daf91847e98850935506c"
    )
    assert base64.b64encode(digest) == b"UZySmcHID/UWx/kSyhKxE/Up+MXFhCITbpGT87CRq2PcicyOrk2vkYR+mIUJNVBs"
    assert base64.b64encode(device_report_data(challenge, JWK)) in DEVICE


def test_second_set_of_vectors() -> None:
    challenge = Challenge(NONCE_0)
    assert device_report_data(challenge, JWK_0).hex() == (
        "0df20fd8aa99a4cac7cb838f7908ef6c9600de97eb3b3a897eafc3771d7100b3160e137184042f10920dd26b2ef936a3"
    )
    assert primary_report_data(challenge, JWK_0, b"").hex() == (
        "28397a50c1ed63482150f0856939e35cc03da796758f324e96a25ed7bd41e6dabeee794131c7fa8db27639f9207cd526"
    )
    assert primary_report_data(challenge, JWK_0, DEVICE_0).hex() == (
        "a733ce93a37ce7e441c8417f8b9e4482dad97183044d37abdfca62bde76904e2020143660736c316ae9d02ff8254d8f6"
    )


def test_canonical_form_is_the_brokers() -> None:
    """The unit vector of the attestation service (kbs_protocol.md 2.2)."""
    assert hashlib.sha384(rfc8785.dumps({"b": 1, "a": "test", "c": {"d": "e"}})).hexdigest() == (
        "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c4597480a186427c813ca941da78870c3"
    )


def test_every_part_is_bound() -> None:
    """user_pains.md SR-07: key, nonce and device evidence are all inside the digest."""
    base = primary_report_data(Challenge(NONCE), JWK, DEVICE)
    others = {
        primary_report_data(Challenge(NONCE_0), JWK, DEVICE),
        primary_report_data(Challenge(NONCE), JWK_0, DEVICE),
        primary_report_data(Challenge(NONCE), JWK, DEVICE + b" "),
        primary_report_data(Challenge(NONCE), JWK, b""),
        primary_report_data(Challenge(NONCE), {**JWK, "x": JWK_0["x"]}, DEVICE),
        device_report_data(Challenge(NONCE), JWK),
    }
    assert base not in others
    assert len(others) == 6


def test_request() -> None:
    assert build_request("snp") == (
        b'{"version":"0.4.0","tee":"snp","extra-params":'
        b'{"supported-hash-algorithms":["sha256","sha384","sha512"]}}'
    )


@pytest.mark.parametrize(
    ("extra", "hash_name"),
    [
        ("", "sha384"),
        (',"extra-params":""', "sha384"),
        (',"extra-params":null', "sha384"),
        (',"extra-params":{}', "sha384"),
        (',"extra-params": { "other" : 1 } ', "sha384"),
        (',"extra-params":[]', "sha384"),
        (',"extra-params":{"selected-hash-algorithm":"sha512"}', "sha512"),
        (', "extra-params" :\n{ "selected-hash-algorithm" : "SHA256" }', "sha256"),
        (',"extra-params":{"selected-hash-algorithm":"Sha384","x":[{}]},"y":1', "sha384"),
    ],
)
def test_challenge(extra: str, hash_name: str) -> None:
    challenge = parse_challenge(f'{{"nonce":"{NONCE}"{extra}}}'.encode())
    assert challenge == Challenge(NONCE, hash_name)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"<html></html>",
        b'{"nonce":""}',
        b'{"nonce":1}',
        b'{"nonce":null}',
        b'{"nonce":"n","extra-params":{"selected-hash-algorithm":null}}',
        b'{"nonce":"n","extra-params":{"selected-hash-algorithm":384}}',
        b'{"nonce":"n","extra-params":{"selected-hash-algorithm":["sha384"]}}',
        b'{"nonce":"n","extra-params":{"selected-hash-algorithm":"sm3"}}',
        b'{"nonce":"n","extra-params":{"selected-hash-algorithm":"md5"}}',
        b'{"nonce":"n","extra-params":{"selected-hash-algorithm":""}}',
        b'{"nonce":"n","extra-params":{"selected-hash-algorithm":"sha-384"}}',
        b'{"nonce":"n","extra-params":{"a":"\xff","selected-hash-algorithm":"\xff"}}',
        b'{"nonce":"\\udc00"}',
        b'{"nonce":"n","extra-params":' + b'{"a":' * 30000,
        b'{"nonce":"' + b"n" * limits.KBS_MAX_CHALLENGE + b'"}',
    ],
)
def test_bad_challenge(body: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        parse_challenge(body)
    assert caught.value.code is ErrorCode.KBS_BAD_RESPONSE


def test_attester_input_is_the_digest() -> None:
    assert attester_input("snp", Challenge("not json"), b"\x01" * 48) == b"\x01" * 48


def test_attester_input_for_se() -> None:
    nonce = (
        '{"image_hdr_tags":"AA==","runtime_data_digest":null,"settings":{"n":1.0,"big":18446744073709551616}}'
    )
    document = attester_input("se", Challenge(nonce, "sha512"), b"\xff" * 64)
    assert json.loads(document) == {
        "image_hdr_tags": "AA==",
        "runtime_data_digest": base64.b64encode(b"\xff" * 64).decode(),
        "settings": {"n": 1.0, "big": 18446744073709551616},
    }
    assert b'{"n":1.0,"big":18446744073709551616}' in document


@pytest.mark.parametrize("nonce", [NONCE, "[]", "null", "", "{", '"{}"'])
def test_se_nonce_that_is_no_document(nonce: str) -> None:
    with pytest.raises(AgentError) as caught:
        attester_input("se", Challenge(nonce), bytes(64))
    assert caught.value.code is ErrorCode.KBS_BAD_RESPONSE


def attestation(primary: bytes, additional: bytes = b"", init_data: str | None = None) -> Any:
    return json.loads(build_attestation(Challenge(NONCE), JWK, primary, additional, init_data))


def test_attestation() -> None:
    assert attestation(b'{"svn":"1","report_data":"36Zd"}') == {
        "init-data": None,
        "runtime-data": {"nonce": NONCE, "tee-pubkey": JWK},
        "tee-evidence": {
            "primary_evidence": {"svn": "1", "report_data": "36Zd"},
            "additional_evidence": "",
        },
    }


def test_attestation_with_devices_and_init_data() -> None:
    toml = 'version = "0.1.0"\n\n[data]\n"ü" = """\n"""\n'
    body = attestation(b"[1]", DEVICE, toml)
    assert body["init-data"] == {"format": "toml", "body": toml}
    assert body["tee-evidence"] == {"primary_evidence": [1], "additional_evidence": DEVICE.decode()}


@pytest.mark.parametrize("primary", [b"", b"{", b"1,2", b'{}},"x":{', b"nan", b'{"a":"\xff"}', b"[" * 30000])
def test_evidence_cannot_break_out_of_its_place(primary: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        attestation(primary)
    assert caught.value.code is ErrorCode.EVIDENCE_FAILED


def test_device_evidence_must_be_text() -> None:
    with pytest.raises(AgentError) as caught:
        attestation(b"{}", b"\xff")
    assert caught.value.code is ErrorCode.EVIDENCE_FAILED
    with pytest.raises(AgentError) as caught:
        primary_report_data(Challenge(NONCE), JWK, b"\xff")
    assert caught.value.code is ErrorCode.EVIDENCE_FAILED


def test_token_reply() -> None:
    assert parse_token_reply(b'{"token":"e30.e30.AA"}').reveal() == b"e30.e30.AA"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"e30.e30.AA",
        b'"e30.e30.AA"',
        b"{}",
        b'{"token":null}',
        b'{"token":""}',
        b'{"token":"e30.e30"}',
        b'{"token":"e30.e30."}',
        b'{"token":"..AA"}',
        b'{"token":"e30.e30.AA.AA"}',
        b'{"token":"e30=.e30.AA"}',
        b'{"token":"e30.e30.A+"}',
        b'{"token":"e30.e30.AA\\r\\nHost: x"}',
        b'{"token":"\xc3\xa9.e30.AA"}',
        b'{"token":"e30.e30.' + b"A" * limits.KBS_MAX_TOKEN + b'"}',
    ],
)
def test_bad_token_reply(body: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        parse_token_reply(body)
    assert caught.value.code is ErrorCode.KBS_BAD_RESPONSE
    assert "e30" not in caught.value.detail


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
MEMBER = st.one_of(JSON, st.fixed_dictionaries({"selected-hash-algorithm": JSON}))


@PROPERTY
@given(st.one_of(st.binary(max_size=60), st.tuples(JSON, MEMBER, JSON)))
def test_property_answers(drawn: bytes | tuple[Any, Any, Any]) -> None:
    if isinstance(drawn, bytes):
        body = drawn
    else:
        nonce, extra, token = drawn
        body = json.dumps({"nonce": nonce, "extra-params": extra, "token": token}).encode()
    challenge = outcome(ErrorCode.KBS_BAD_RESPONSE, lambda: parse_challenge(body))
    if challenge is not None:
        digest = primary_report_data(challenge, JWK, b"")
        assert len(digest) in {32, 48, 64}
        outcome(ErrorCode.KBS_BAD_RESPONSE, lambda: attester_input("se", challenge, digest))
        sent = json.loads(build_attestation(challenge, JWK, b"{}", b"", None))
        assert sent["runtime-data"]["nonce"] == challenge.nonce
    outcome(ErrorCode.KBS_BAD_RESPONSE, lambda: parse_token_reply(body))


@PROPERTY
@given(st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_property_what_is_sent_is_what_was_hashed(nonce: str, additional: str) -> None:
    challenge = Challenge(nonce)
    text = additional.encode()
    body = json.loads(build_attestation(challenge, JWK, b"{}", text, None))
    rebuilt = {
        "additional-evidence": body["tee-evidence"]["additional_evidence"],
        "nonce": body["runtime-data"]["nonce"],
        "tee-pubkey": body["runtime-data"]["tee-pubkey"],
    }
    plain = json.dumps(rebuilt, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert primary_report_data(challenge, JWK, text) == hashlib.sha384(plain.encode()).digest()
