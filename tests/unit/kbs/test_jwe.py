from __future__ import annotations

import base64
import copy
import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from hypothesis import given
from hypothesis import strategies as st
from jwcrypto.jwe import JWE  # type: ignore[import-untyped]
from jwcrypto.jwk import JWK  # type: ignore[import-untyped]

from agent.config.model import KeyAlgorithm
from agent.errors import AgentError, ErrorCode
from agent.kbs import jwe
from agent.kbs.keys import TeeKey
from tests.unit.kbs import PROPERTY, outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

KEYS = {algorithm: TeeKey.generate(algorithm) for algorithm in KeyAlgorithm}
EACH = pytest.mark.parametrize("algorithm", list(KeyAlgorithm))
MEMBERS = ["protected", "encrypted_key", "iv", "ciphertext", "tag"]

# kbs_protocol.md A.2
VECTOR = {
    "protected": (
        "eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZHQ00iLCJlcGsiOnsiY3J2IjoiUC0yNTYiLCJrdHkiOiJFQyIsIngiOi"
        "JnSTBHQUlMQmR1N1Q1M2FrckZtTXlHY3NGM241ZE83TW13TkJIS1c1U1YwIiwieSI6IlNMV194U2ZmemxQV3JIRVZJMzBESE1fNGVn"
        "Vnd0M05RcWVVRDduTUZwcHMifX0"
    ),
    "encrypted_key": "7R6UjCuiixFLDIzKgrY3i12gyo0yhwLG3QQ_UEvAnZk2SBZY5mrvoQ",
    "iv": "AAECAwQFBgcICQoL",
    "ciphertext": "JnaifraRp3-tMvLow4wM",
    "tag": "BwjBqaAHFnraiKEEpMzNwg",
}
SCALAR = "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"


def b64(value: bytes | bytearray) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def vector_key() -> TeeKey:
    private = ec.derive_private_key(int.from_bytes(unb64(SCALAR), "big"), ec.SECP256R1())
    return TeeKey.from_pem(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


KEY = vector_key()


def decrypt(message: object, key: TeeKey = KEY) -> bytes:
    return jwe.decrypt(json.dumps(message).encode(), key).reveal()


def refuse(message: object, key: TeeKey = KEY) -> str:
    with pytest.raises(AgentError) as caught:
        decrypt(message, key)
    assert caught.value.code is ErrorCode.JWE_INVALID
    assert caught.value.__cause__ is None
    return caught.value.detail


def made(plaintext: bytes, key: TeeKey, alg: str = "") -> Any:
    """An answer written by an independent implementation."""
    alg = alg or key.alg
    token = JWE(plaintext, protected=json.dumps({"alg": alg, "enc": "A256GCM"}), algs=[alg, "A256GCM"])
    # Without its own "alg", the JWK serves for algorithms that the protocol would not pair it with.
    public = {name: value for name, value in key.jwk().items() if name != "alg"}
    token.add_recipient(JWK(**public))
    # Its JSON form has the ephemeral key in an unprotected header; the broker's does not.
    protected, encrypted_key, iv, text, tag = token.serialize(compact=True).split(".")
    return dict(zip(MEMBERS, (protected, encrypted_key, iv, text, tag), strict=True))


def test_vector() -> None:
    assert decrypt(VECTOR) == b"attested secret"


@EACH
@pytest.mark.parametrize("size", [1, 32, 100_000])
def test_what_an_independent_library_wrote(algorithm: KeyAlgorithm, size: int) -> None:
    key = KEYS[algorithm]
    message = made(b"s" * size, key)
    assert decrypt(message, key) == b"s" * size


def test_authenticated_additional_data() -> None:
    message = sealed(b"secret", aad=b64(b"more"))
    theirs = JWE(algs=["ECDH-ES+A256KW", "A256GCM"])
    theirs.deserialize(json.dumps(message), JWK.from_pem(KEY.pem().reveal()))
    assert theirs.payload == decrypt(message) == b"secret"
    refuse({**message, "aad": b64(b"less")})
    refuse({name: value for name, value in message.items() if name != "aad"})


def test_null_aad_and_unknown_members_do_not_matter() -> None:
    assert decrypt({"aad": None, "new": {"header": 1}, **VECTOR}) == b"attested secret"
    assert jwe.decrypt(json.dumps(VECTOR, indent=4).encode(), KEY).reveal() == b"attested secret"


@pytest.mark.parametrize("aad", ["", "AB=", "é", "A", 5, {}, "bW9yZQ"])
def test_an_aad_that_was_not_authenticated(aad: object) -> None:
    refuse({**VECTOR, "aad": aad})


def sealed(
    plaintext: bytes,
    header: Mapping[str, object] = MappingProxyType({}),
    content_key: bytes = bytes(range(32)),
    aad: str | None = None,
) -> dict[str, str]:
    """An answer to KEY written here, with the vector's ephemeral key; ``...`` leaves a header member out."""
    # The KEK of the vector depends on the two keys only.
    kek = bytes.fromhex("667c269a83bd5281b02a7e926c57f04ca347cd1ecbab4fbdd8a96ea601b88fdd")
    members = {**json.loads(unb64(VECTOR["protected"])), **header}
    protected = b64(json.dumps({name: value for name, value in members.items() if value is not ...}).encode())
    bound = protected if aad is None else f"{protected}.{aad}"
    text = AESGCM(content_key).encrypt(bytes(12), plaintext, bound.encode())
    message = {
        "protected": protected,
        "encrypted_key": b64(aes_key_wrap(kek, content_key)),
        "iv": b64(bytes(12)),
        "ciphertext": b64(text[:-16]),
        "tag": b64(text[-16:]),
    }
    return message if aad is None else {**message, "aad": aad}


def test_an_empty_resource_is_a_resource() -> None:
    message = sealed(b"")
    assert message["ciphertext"] == ""
    assert decrypt(message) == b""


def test_header_text_is_authenticated_as_received() -> None:
    assert decrypt(sealed(b"x", {"kid": "spaces and order differ from the broker's"})) == b"x"


@pytest.mark.parametrize(
    "change",
    [
        {"alg": "RSA1_5"},
        {"alg": "RSA-OAEP-256"},
        {"alg": "RSA-OAEP"},
        {"alg": "dir"},
        {"alg": "ECDH-ES"},
        {"alg": "ECDH-ES+A128KW"},
        {"alg": "ecdh-es+a256kw"},
        {"alg": None},
        {"alg": ...},
        {"enc": "A128GCM"},
        {"enc": "A256CBC-HS512"},
        {"enc": ...},
        {"epk": ...},
        {"epk": None},
        {"epk": "x"},
        {"apu": "QWxpY2U"},
        {"apv": ""},
        {"zip": "DEF"},
        {"crit": ["exp"]},
    ],
)
def test_refused_headers(change: dict[str, object]) -> None:
    refuse(sealed(b"secret", change))


@pytest.mark.parametrize(
    "change",
    [
        {"kty": "OKP"},
        {"crv": "P-521"},
        {"crv": "P-384"},
        {"x": ""},
        {"x": b64(bytes(31))},
        {"x": b64(bytes(33))},
        {"x": b64(bytes(32))},
        {"y": b64(b"\x01" * 32)},
        {"y": b64(b"\xff" * 32)},
        {"x": 5},
        {"x": "not base64url!"},
        {"x": "gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0="},
    ],
)
def test_refused_ephemeral_keys(change: dict[str, object]) -> None:
    epk = json.loads(unb64(VECTOR["protected"]))["epk"]
    refuse(sealed(b"secret", {"epk": {**epk, **change}}))


def test_point_at_infinity_and_other_curve() -> None:
    epk = {"kty": "EC", "crv": "P-256", "x": b64(bytes(32)), "y": b64(bytes(32))}
    refuse(sealed(b"secret", {"epk": epk}))
    other = KEYS[KeyAlgorithm.EC_P521].jwk()
    refuse(sealed(b"secret", {"epk": other}))


@EACH
def test_an_answer_to_another_key(algorithm: KeyAlgorithm) -> None:
    message = made(b"secret", TeeKey.generate(algorithm))
    refuse(message, KEYS[algorithm])
    for other in KeyAlgorithm:
        if other is not algorithm:
            refuse(message, KEYS[other])


def test_deprecated_rsa_padding_is_refused() -> None:
    key = KEYS[KeyAlgorithm.RSA]
    for alg in ("RSA1_5", "RSA-OAEP"):
        assert "alg must be RSA-OAEP-256" in refuse(made(b"secret", key, alg=alg), key)


def test_every_failing_unwrap_says_the_same() -> None:
    key = KEYS[KeyAlgorithm.RSA]
    message = made(b"secret", key)
    changed = bytearray(unb64(message["encrypted_key"]))
    changed[-1] ^= 1
    # The 16-byte content key of another answer unwraps well, but has the wrong length.
    other = JWE(b"", protected='{"alg":"RSA-OAEP-256","enc":"A128GCM"}', recipient=JWK(**key.jwk()))
    short = other.serialize(compact=True).split(".")[1]
    details = {
        refuse({**message, "encrypted_key": wrapped}, key)
        for wrapped in (b64(changed), b64(bytes(255)), b64(bytes(256)), b64(b"\xff" * 256), short)
    }
    assert details == {refuse({**message, "tag": b64(bytes(16))}, key)}


@pytest.mark.parametrize("size", [16, 24])
def test_a_shorter_content_key_is_refused(size: int) -> None:
    refuse(sealed(b"secret", content_key=bytes(size)))


@EACH
@pytest.mark.parametrize("member", MEMBERS)
def test_tampering(algorithm: KeyAlgorithm, member: str) -> None:
    key = KEYS[algorithm]
    message = made(b"secret", key)
    raw = unb64(message[member])
    for index in {0, len(raw) // 2, len(raw) - 1}:
        changed = bytearray(raw)
        changed[index] ^= 1
        refuse({**message, member: b64(changed)}, key)
    refuse({**message, member: b64(raw[:-1])}, key)
    refuse({**message, member: b64(raw + b"\0")}, key)
    refuse({**message, member: message[member] + "="}, key)
    refuse({**message, member: " " + message[member]}, key)
    refuse({**message, member: ""}, key)
    refuse({**message, member: None}, key)
    refuse({name: value for name, value in message.items() if name != member}, key)


@pytest.mark.parametrize("size", [0, 4, 12, 15, 17])
def test_short_tags_are_refused(size: int) -> None:
    tag = (unb64(VECTOR["tag"]) + b"\0")[:size]
    assert "length" in refuse({**VECTOR, "tag": b64(tag)})


@pytest.mark.parametrize("member", ["header", "unprotected", "recipients"])
@pytest.mark.parametrize("value", [None, {}, [], {"alg": "dir"}])
def test_unauthenticated_members_are_refused(member: str, value: object) -> None:
    assert "refused" in refuse({**VECTOR, member: value})


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{}", b'"e30"', b"<html>", b"\xff", b'{"x":' * 30000, b"a.b.c.d.e"]
)
def test_no_jwe(body: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        jwe.decrypt(body, KEY)
    assert caught.value.code is ErrorCode.JWE_INVALID


def test_nested_header_is_refused() -> None:
    refuse({**VECTOR, "protected": b64(b'{"x":' * 3000)})
    refuse({**VECTOR, "protected": b64(b'{"alg":"' + b"a" * 20000 + b'"}')})


def test_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.config.limits.KBS_MAX_RESOURCE", 100)
    assert "longer than 100 bytes" in refuse(VECTOR)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.just("A256GCM")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["alg", "enc", "epk", "kty", "crv", "x", "y"]), inner, max_size=4),
    ),
    max_leaves=6,
)


@PROPERTY
@given(st.binary(max_size=80))
def test_property_bytes(body: bytes) -> None:
    assert outcome(ErrorCode.JWE_INVALID, lambda: jwe.decrypt(body, KEY)) is None


@PROPERTY
@given(
    algorithm=st.sampled_from([KeyAlgorithm.EC_P256, KeyAlgorithm.EC_P521, KeyAlgorithm.RSA]),
    members=st.dictionaries(st.sampled_from([*MEMBERS, "aad", "header"]), JSON, max_size=2),
    header=st.dictionaries(st.sampled_from(["alg", "enc", "epk", "apu", "crit"]), JSON, max_size=2),
)
def test_property_mutations(algorithm: KeyAlgorithm, members: dict[str, Any], header: dict[str, Any]) -> None:
    message: dict[str, Any] = copy.deepcopy(VECTOR)
    protected = {**json.loads(unb64(VECTOR["protected"])), **header}
    message["protected"] = b64(json.dumps(protected).encode()) if header else VECTOR["protected"]
    body = json.dumps({**message, **members}).encode()
    plain = outcome(ErrorCode.JWE_INVALID, lambda: jwe.decrypt(body, KEY))
    assert plain is None or plain.reveal() == b"attested secret"
    assert outcome(ErrorCode.JWE_INVALID, lambda: jwe.decrypt(body, KEYS[algorithm])) is None


@PROPERTY
@given(st.data())
def test_property_one_changed_character(data: st.DataObject) -> None:
    text = json.dumps(VECTOR)
    index = data.draw(st.integers(0, len(text) - 1))
    char = data.draw(st.characters(max_codepoint=0x100))
    body = (text[:index] + char + text[index + 1 :]).encode()
    plain = outcome(ErrorCode.JWE_INVALID, lambda: jwe.decrypt(body, KEY))
    assert plain is None or plain.reveal() == b"attested secret"
