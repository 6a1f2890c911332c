from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwcrypto.jwk import JWK  # type: ignore[import-untyped]

from agent.config.model import KeyAlgorithm
from agent.errors import AgentError, ErrorCode
from agent.kbs.keys import TeeKey
from tests.unit.kbs import PROPERTY, outcome

PKCS8 = serialization.PrivateFormat.PKCS8
PEM = serialization.Encoding.PEM
PLAIN = serialization.NoEncryption()


@pytest.fixture(scope="module")
def rsa_key() -> TeeKey:
    return TeeKey.generate(KeyAlgorithm.RSA)


def unpadded(text: str) -> bytes:
    assert "=" not in text
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def pem_with_small_coordinate(curve: ec.EllipticCurve, size: int) -> bytes:
    """A key whose x starts with a zero byte: such keys are rare, and easily encoded one byte short."""
    for scalar in range(2, 20000):
        key = ec.derive_private_key(scalar, curve)
        if key.public_key().public_numbers().x < 1 << (8 * (size - 1)):
            return key.private_bytes(PEM, PKCS8, PLAIN)
    raise AssertionError("none found")


@pytest.mark.parametrize(
    ("algorithm", "curve", "size"),
    [(KeyAlgorithm.EC_P256, "P-256", 32), (KeyAlgorithm.EC_P521, "P-521", 66)],
)
def test_ec_key(algorithm: KeyAlgorithm, curve: str, size: int) -> None:
    key = TeeKey.generate(algorithm)
    jwk = key.jwk()
    assert list(jwk) == ["kty", "crv", "alg", "x", "y"]
    assert (jwk["kty"], jwk["crv"], jwk["alg"]) == ("EC", curve, "ECDH-ES+A256KW")
    assert len(unpadded(jwk["x"])) == len(unpadded(jwk["y"])) == size
    pem = key.pem().reveal()
    assert pem.startswith(b"-----BEGIN PRIVATE KEY-----")
    again = TeeKey.from_pem(pem)
    assert again.algorithm is key.algorithm is algorithm
    assert again.jwk() == jwk
    assert TeeKey.generate(algorithm).jwk() != jwk


def test_rsa_key(rsa_key: TeeKey) -> None:
    jwk = rsa_key.jwk()
    assert list(jwk) == ["kty", "alg", "n", "e"]
    assert (jwk["kty"], jwk["alg"], jwk["e"]) == ("RSA", "RSA-OAEP-256", "AQAB")
    assert len(unpadded(jwk["n"])) == 256
    pem = rsa_key.pem().reveal()
    assert pem.startswith(b"-----BEGIN RSA PRIVATE KEY-----")
    again = TeeKey.from_pem(pem)
    assert again.algorithm is KeyAlgorithm.RSA
    assert again.jwk() == jwk


@pytest.mark.parametrize(("curve", "size"), [(ec.SECP256R1(), 32), (ec.SECP521R1(), 66)])
def test_coordinates_are_padded_to_the_left(curve: ec.EllipticCurve, size: int) -> None:
    x = unpadded(TeeKey.from_pem(pem_with_small_coordinate(curve, size)).jwk()["x"])
    assert len(x) == size
    assert x[0] == 0


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.EC_P256, KeyAlgorithm.EC_P521])
def test_an_independent_reader_takes_key_and_pem(algorithm: KeyAlgorithm) -> None:
    key = TeeKey.generate(algorithm)
    theirs = JWK.from_pem(key.pem().reveal())
    assert JWK.from_json(json.dumps(key.jwk())).thumbprint() == theirs.thumbprint()


def test_rsa_in_pkcs8_is_read_too(rsa_key: TeeKey) -> None:
    private = serialization.load_pem_private_key(rsa_key.pem().reveal(), None)
    assert TeeKey.from_pem(private.private_bytes(PEM, PKCS8, PLAIN)).jwk() == rsa_key.jwk()


def refuse(pem: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        TeeKey.from_pem(pem)
    assert caught.value.code is ErrorCode.KBS_BAD_RESPONSE
    assert "BEGIN" not in caught.value.detail


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256K1()])
def test_other_curves_are_refused(curve: ec.EllipticCurve) -> None:
    refuse(ec.generate_private_key(curve).private_bytes(PEM, PKCS8, PLAIN))


def test_other_kinds_are_refused() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    refuse(key.private_bytes(PEM, PKCS8, PLAIN))
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    refuse(public.public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo))


def test_encrypted_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    refuse(key.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"word")))


def test_short_rsa_is_refused() -> None:
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505  # that is the point
    refuse(key.private_bytes(PEM, serialization.PrivateFormat.TraditionalOpenSSL, PLAIN))


def test_oversized_is_refused(rsa_key: TeeKey) -> None:
    refuse(b"\n" * 20000 + rsa_key.pem().reveal())


def test_it_does_not_print() -> None:
    key = TeeKey.generate(KeyAlgorithm.EC_P256)
    assert repr(key) == str(key) == "TeeKey(ECDH-ES+A256KW-P256)"
    assert f"{key.pem()}" == "***"


def test_agreement_is_the_same_on_both_sides() -> None:
    one, two = TeeKey.generate(KeyAlgorithm.EC_P521), TeeKey.generate(KeyAlgorithm.EC_P521)
    shared = [
        mine.agree("P-521", unpadded(other.jwk()["x"]), unpadded(other.jwk()["y"]))
        for mine, other in ((one, two), (two, one))
    ]
    assert shared[0] == shared[1]
    assert len(shared[0]) == 66


SAMPLE = TeeKey.generate(KeyAlgorithm.EC_P256).pem().reveal()


@PROPERTY
@given(
    st.one_of(
        st.binary(max_size=200),
        st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(1, 255)).map(
            lambda flip: SAMPLE[: flip[0]] + bytes([SAMPLE[flip[0]] ^ flip[1]]) + SAMPLE[flip[0] + 1 :]
        ),
    )
)
def test_property_only_the_declared_error(pem: bytes) -> None:
    key = outcome(ErrorCode.KBS_BAD_RESPONSE, lambda: TeeKey.from_pem(pem))
    assert key is None or key.algorithm is KeyAlgorithm.EC_P256
