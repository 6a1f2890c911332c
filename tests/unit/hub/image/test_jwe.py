"""Layer keys in JWE, against another implementation (jwcrypto)."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from jwcrypto import jwe as other  # type: ignore[import-untyped]
from jwcrypto import jwk

from agent.errors import ErrorCode
from agent.hub.image import jwe
from agent.secret import Secret
from tests.unit.hub.support import failure, unhurried

PLAINTEXT = b'{"symkey":"..."}'


@functools.cache
def private(kind: str) -> jwe.PrivateKey:
    if kind == "RSA":
        return rsa.generate_private_key(65537, 2048)
    curves: dict[str, type[ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1]] = {
        "P-256": ec.SECP256R1,
        "P-384": ec.SECP384R1,
        "P-521": ec.SECP521R1,
    }
    return ec.generate_private_key(curves[kind]())


def pem(key: Any) -> bytes:
    made: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made


MEMBERS = ("protected", "iv", "tag", "ciphertext", "recipients", "header", "encrypted_key")
KINDS = ("RSA", "P-256", "P-384", "P-521")
SCHEMES = [("RSA", "RSA-OAEP"), ("RSA", "RSA-OAEP-256"), *((kind, "ECDH-ES+A256KW") for kind in KINDS[1:])]


def foreign(kind: str, alg: str, enc: str = "A256GCM", *, flattened: bool = False) -> bytes:
    key = jwk.JWK.from_pem(pem(private(kind)))
    if flattened:
        made = other.JWE(PLAINTEXT, json.dumps({"alg": alg, "enc": enc}), recipient=key)
        return str(made.serialize()).encode()
    made = other.JWE(PLAINTEXT, json.dumps({"enc": enc}))
    made.add_recipient(key, json.dumps({"alg": alg}))
    made.add_recipient(key, json.dumps({"alg": alg}))
    return str(made.serialize()).encode()


@pytest.mark.parametrize(("kind", "alg"), SCHEMES)
@pytest.mark.parametrize("flattened", [True, False])
def test_what_others_encrypt_opens(kind: str, alg: str, flattened: bool) -> None:
    message = foreign(kind, alg, flattened=flattened)
    assert jwe.decrypt(message, private(kind)).reveal() == PLAINTEXT
    assert set(jwe.algorithms(message)) == {alg}


@pytest.mark.parametrize("kind", KINDS)
def test_others_open_what_we_encrypt(kind: str) -> None:
    recipients = [private(one).public_key() for one in KINDS]
    message = jwe.encrypt(Secret(PLAINTEXT), recipients)
    assert jwe.decrypt(message, private(kind)).reveal() == PLAINTEXT
    opened = other.JWE()
    opened.deserialize(message.decode(), jwk.JWK.from_pem(pem(private(kind))))
    assert opened.payload == PLAINTEXT


def test_another_key_does_not_open_it() -> None:
    message = jwe.encrypt(Secret(PLAINTEXT), [private("RSA").public_key()])
    for key in (rsa.generate_private_key(65537, 2048), private("P-256")):
        assert failure(functools.partial(jwe.decrypt, message, key)) is ErrorCode.IMAGE_KEY_UNWRAP_FAILED


def changed(**members: Any) -> bytes:
    return json.dumps({**json.loads(foreign("P-256", "ECDH-ES+A256KW", flattened=True)), **members}).encode()


@pytest.mark.parametrize("member", ["iv", "tag", "ciphertext", "encrypted_key"])
def test_each_changed_part_is_refused(member: str) -> None:
    message = json.loads(foreign("P-256", "ECDH-ES+A256KW", flattened=True))
    text = message[member]
    for place in range(0, len(text) - 1, 3):
        swap = "A" if text[place] != "A" else "B"
        message[member] = text[:place] + swap + text[place + 1 :]
        sent = json.dumps(message).encode()
        assert (
            failure(functools.partial(jwe.decrypt, sent, private("P-256")))
            is ErrorCode.IMAGE_KEY_UNWRAP_FAILED
        )


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"{}",
        changed(iv="AAAA"),
        changed(tag="AAAA"),
        changed(recipients=[]),
        changed(recipients=[{"encrypted_key": "AAAA"}] * 65, encrypted_key=None),
        changed(header={"alg": "RSA1_5"}),
        changed(unprotected={"enc": "A256GCM"}),
        changed(header={"crit": ["b64"]}),
        changed(header={"zip": "DEF"}),
        changed(protected="e30"),
        changed(protected="!"),
    ],
)
def test_what_could_mean_something_else_is_refused(message: bytes) -> None:
    assert failure(lambda: jwe.decrypt(message, private("P-256"))) is ErrorCode.IMAGE_KEY_MALFORMED


@pytest.mark.parametrize(("kind", "alg"), [("RSA", "RSA1_5"), ("P-256", "ECDH-ES")])
def test_the_message_does_not_choose_a_weaker_algorithm(kind: str, alg: str) -> None:
    message = json.loads(foreign(kind, dict(SCHEMES)[kind]))
    for recipient in message["recipients"]:
        recipient["header"]["alg"] = alg
    sent = json.dumps(message).encode()
    assert failure(lambda: jwe.decrypt(sent, private(kind))) is ErrorCode.IMAGE_KEY_UNWRAP_FAILED


def test_a_point_off_the_curve_or_of_another_is_refused() -> None:
    message = json.loads(jwe.encrypt(Secret(PLAINTEXT), [private("P-256").public_key()]))
    epk = message["recipients"][0]["header"]["epk"]
    for change in ({"x": epk["y"]}, {"crv": "P-384"}, {"kty": "OKP"}):
        message["recipients"][0]["header"]["epk"] = {**epk, **change}
        sent = json.dumps(message).encode()
        assert (
            failure(functools.partial(jwe.decrypt, sent, private("P-256")))
            is ErrorCode.IMAGE_KEY_UNWRAP_FAILED
        )


@unhurried
@given(st.recursive(
    st.none() | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS), inner),
))  # fmt: skip
def test_noise_is_refused(message: Any) -> None:
    sent = json.dumps(message).encode()
    assert failure(lambda: jwe.decrypt(sent, private("P-256"))) is ErrorCode.IMAGE_KEY_MALFORMED


@pytest.mark.parametrize("kind", KINDS)
def test_keys_in_pem_and_der(kind: str) -> None:
    key = private(kind)
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    old = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    for content in (pem(key), der, old):
        assert jwe.read_private_key(content).private_numbers() == key.private_numbers()
    for encoding in (Encoding.PEM, Encoding.DER):
        public = key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
        assert jwe.read_public_key(public) == key.public_key()


def test_other_keys_are_refused() -> None:
    edwards = ed25519.Ed25519PrivateKey.generate()
    public = edwards.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505
    odd = ec.generate_private_key(ec.SECP256K1())
    for content in (pem(edwards), pem(weak), pem(odd), b"", b"-----BEGIN", b"\x30\x00"):
        assert failure(functools.partial(jwe.read_private_key, content)) is ErrorCode.INVALID_REQUEST
    for content in (public, b"", b"-----BEGIN"):
        assert failure(functools.partial(jwe.read_public_key, content)) is ErrorCode.INVALID_REQUEST
