"""AWS Nitro's attestation document: the signature and the bundle hold, and what is changed is noticed."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cli.inspection.document import Context
from agent.cli.inspection.recognise import recognise
from agent.errors import AgentError, ErrorCode
from agent.tee.evidence.cbor import Tagged, Value
from agent.tee.evidence.certs import der
from agent.tee.evidence.nitro_document import ES384, parse_nitro, verify
from tests.unit.tee.evidence.forge import attempt, certificate, raw_signature
from tests.unit.tee.evidence.test_encodings import encode

ROOT_KEY, KEY = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
ROOT = certificate("nitro root", ROOT_KEY, "nitro root", ROOT_KEY, ca=True)
LEAF = certificate("i-1234", KEY, "nitro root", ROOT_KEY, ca=False)


def document(*, tagged: bool = False, **changed: object) -> bytes:
    claims: dict[str, object] = {
        "module_id": "i-1234",
        "digest": "SHA384",
        "timestamp": 1_790_000_000_000,
        "pcrs": {0: b"\x01" * 48, 4: b"\x02" * 48},
        "certificate": der(LEAF),
        "cabundle": [der(ROOT)],
        "public_key": None,
        "user_data": b"u" * 48,
        "nonce": b"n",
    } | changed
    payload = encode(claims)
    signature = raw_signature(KEY, encode(["Signature1", ES384, b"", payload]), hashes.SHA384())
    sign1: list[Value] = [ES384, {}, payload, signature]
    return encode(Tagged(18, sign1) if tagged else sign1)


@pytest.mark.parametrize("tagged", [False, True])
def test_a_document_is_parsed_and_its_signature_holds(tagged: bool) -> None:
    found = parse_nitro(document(tagged=tagged))
    assert (found.user_data, found.nonce, found.public_key) == (b"u" * 48, b"n", None)
    assert found.pcrs[4] == b"\x02" * 48
    assert [check.passed for check in verify(found)] == [True, True, None]


def test_a_changed_document_fails() -> None:
    data = document().replace(b"u" * 48, b"v" * 48)
    assert [check.passed for check in verify(parse_nitro(data))] == [False, True, None]


def test_a_bundle_of_others_fails() -> None:
    stranger = certificate("nitro root", KEY, "nitro root", KEY, ca=True)
    found = parse_nitro(document(cabundle=[der(stranger)]))
    assert [check.passed for check in verify(found)] == [True, False, None]


def test_a_certificate_that_is_none_fails() -> None:
    assert [check.passed for check in verify(parse_nitro(document(certificate=b"x")))] == [False]


def test_inspect_recognises_it_and_alarms_at_zeros() -> None:
    shown = recognise(document(pcrs={0: bytes(48)}), Context())
    assert shown is not None
    assert shown.kind == "nitro-document"
    assert shown.as_json()["alarms"] == ["debug"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        document()[:-1],
        encode([b"\xa0", {}, b"", bytes(96)]),
        encode([ES384, {}, b"\x01", bytes(96)]),
        document(cabundle=[b""] * 17),
        document(pcrs=[]),
        document(timestamp="now"),
        document(module_id=1),
        document(certificate=None),
    ],
)
def test_another_document_is_malformed(data: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        parse_nitro(data)
    assert caught.value.code is ErrorCode.EVIDENCE_MALFORMED


_WHOLE = document()


@settings(max_examples=100)
@given(at=st.integers(0, len(_WHOLE) - 1), byte=st.integers(0, 255), noise=st.binary(max_size=100))
def test_any_bytes_are_a_document_or_malformed(at: int, byte: int, noise: bytes) -> None:
    for data in (_WHOLE[:at] + bytes([byte]) + _WHOLE[at + 1 :], _WHOLE[:at], noise, b"\x84\x44" + noise):
        attempt(lambda: verify(parse_nitro(data)))  # noqa: B023  # called at once
