"""Administrators' tokens: read by another library, and only made with the right kind of key."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwcrypto import jwk, jwt  # type: ignore[import-untyped]

from agent.errors import AgentError, ErrorCode
from agent.kbs.admin import LIFE, Claims, admin_token, read_key

NOW = 1_790_000_000.5


def pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, password: bytes = b"") -> bytes:
    lock = ser.BestAvailableEncryption(password) if password else ser.NoEncryption()
    return key.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.PKCS8, lock)


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        (Claims(), {"role": "admin"}),
        (Claims("writer", "me", "kbs"), {"role": "writer", "iss": "me", "aud": ["kbs"]}),
    ],
)
def test_a_token_says_role_and_times_and_what_was_asked_for(claims: Claims, said: dict[str, object]) -> None:
    key = read_key(pem(Ed25519PrivateKey.generate()))
    public = key.public_key().public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo)
    token = jwt.JWT(algs=["EdDSA"], check_claims={})
    token.leeway = 10**9
    token.deserialize(admin_token(key, claims, NOW), jwk.JWK.from_pem(public))
    times = {"iat": int(NOW), "exp": int(NOW + LIFE)}
    assert json.loads(token.claims) == {**said, **times}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no pem",
        pem(ec.generate_private_key(ec.SECP256R1())),
        pem(Ed25519PrivateKey.generate(), b"secret"),
    ],
    ids=["empty", "text", "ec", "encrypted"],
)
def test_other_keys_are_refused(text: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        read_key(text)
    assert caught.value.code is ErrorCode.CONFIG_INVALID
