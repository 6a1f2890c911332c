from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from hypothesis import given, settings
from hypothesis import strategies as st
from jwcrypto import jwe as oracle  # type: ignore[import-untyped]
from jwcrypto import jwk

from agent.devkit.kbs import jwe, wire
from agent.devkit.kbs.answers import ProblemError


def pair(curve: str) -> tuple[jwk.JWK, wire.EcKey]:
    key = jwk.JWK.generate(kty="EC", crv=curve)
    public = json.loads(key.export_public())
    return key, wire.EcKey("ECDH-ES+A256KW", curve, public["x"], public["y"])


def rsa_pair(bits: int = 2048, alg: str = "RSA-OAEP-256") -> tuple[jwk.JWK, wire.RsaKey]:
    key = jwk.JWK.generate(kty="RSA", size=bits)
    public = json.loads(key.export_public())
    return key, wire.RsaKey(alg, public["n"], public["e"])


def opened(body: bytes, key: jwk.JWK) -> bytes:
    box = oracle.JWE()
    box.deserialize(body.decode(), key)
    plaintext: bytes = box.payload
    return plaintext


@pytest.mark.parametrize("curve", ["P-256", "P-521"])
def test_an_independent_library_decrypts_what_was_encrypted_to_an_ec_key(curve: str) -> None:
    key, public = pair(curve)
    assert opened(jwe.encrypt(b"attested secret", public), key) == b"attested secret"


def test_an_independent_library_decrypts_what_was_encrypted_to_an_rsa_key() -> None:
    key, public = rsa_pair()
    assert opened(jwe.encrypt(b"attested secret", public), key) == b"attested secret"


def test_the_layout_is_trustees() -> None:
    body = json.loads(jwe.encrypt(b"12345", pair("P-256")[1]))
    assert list(body) == ["protected", "encrypted_key", "iv", "ciphertext", "tag"]
    header = wire.unb64url(body["protected"]).decode()
    assert header.startswith('{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv":"P-256","kty":"EC","x":"')
    sizes = {name: len(wire.unb64url(body[name])) for name in list(body)[1:]}
    assert sizes == {"encrypted_key": 40, "iv": 12, "ciphertext": 5, "tag": 16}
    rsa = json.loads(jwe.encrypt(b"", rsa_pair()[1]))
    assert wire.unb64url(rsa["protected"]) == b'{"alg":"RSA-OAEP-256","enc":"A256GCM"}'
    assert (rsa["ciphertext"], len(wire.unb64url(rsa["encrypted_key"]))) == ("", 256)


def test_an_empty_resource_has_an_empty_ciphertext_that_still_authenticates() -> None:
    key, public = pair("P-256")  # jwcrypto cannot open an empty plaintext, so its parts are used
    body = json.loads(jwe.encrypt(b"", public))
    assert body["ciphertext"] == ""
    header = json.loads(wire.unb64url(body["protected"]))
    epk = jwk.JWK(**header["epk"]).get_op_key("verify")
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    shared = key.get_op_key("sign").exchange(ec.ECDH(), epk)
    cek = aes_key_unwrap(jwe.concat_kdf(shared), wire.unb64url(body["encrypted_key"]))
    tag = wire.unb64url(body["tag"])
    assert AESGCM(cek).decrypt(wire.unb64url(body["iv"]), tag, body["protected"].encode()) == b""


def test_key_derivation_is_the_vector_of_the_protocol_sheet() -> None:
    shared = bytes.fromhex("15d5a2cd9fe04a06566a8155190dff890d967ee896e7e2a70ac24d281f74604a")
    expected = "667c269a83bd5281b02a7e926c57f04ca347cd1ecbab4fbdd8a96ea601b88fdd"
    assert jwe.concat_kdf(shared).hex() == expected


def test_no_two_answers_are_alike() -> None:
    _, public = pair("P-256")
    first, second = (json.loads(jwe.encrypt(b"same", public)) for _ in range(2))
    assert all(first[name] != second[name] for name in first)


GOOD = pair("P-256")[1]


@pytest.mark.parametrize(
    "key",
    [
        wire.EcKey("ECDH-ES", "P-256", GOOD.x, GOOD.y),
        wire.EcKey("ECDH-ES+A256KW", "P-384", GOOD.x, GOOD.y),
        wire.EcKey("ECDH-ES+A256KW", "P-521", GOOD.x, GOOD.y),
        wire.EcKey("ECDH-ES+A256KW", "P-256", GOOD.x, GOOD.x),
        wire.EcKey("ECDH-ES+A256KW", "P-256", GOOD.x + "=", GOOD.y),
        wire.EcKey("ECDH-ES+A256KW", "P-256", wire.b64url(wire.unb64url(GOOD.x)[1:]), GOOD.y),
        wire.EcKey("ECDH-ES+A256KW", "P-256", "", ""),
        rsa_pair(alg="RSA1_5")[1],
        rsa_pair(1024)[1],
        wire.RsaKey("RSA-OAEP-256", rsa_pair()[1].n, "AQ"),
        wire.RsaKey("RSA-OAEP-256", "", ""),
    ],
)
def test_unusable_keys_are_a_jwe_problem(key: wire.TeePubKey) -> None:
    with pytest.raises(ProblemError) as caught:
        jwe.encrypt(b"x", key)
    assert (caught.value.kind, caught.value.detail, caught.value.status) == ("JweError", "JWE failed", 401)


@settings(max_examples=100)
@given(
    parts=st.tuples(*[st.text(max_size=50)] * 2), raw=st.tuples(*[st.binary(min_size=31, max_size=33)] * 2)
)
def test_any_key_is_refused_cleanly(parts: tuple[str, str], raw: tuple[bytes, bytes]) -> None:
    coded = [base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in raw]
    for x, y in (parts, coded):
        for key in (wire.EcKey("ECDH-ES+A256KW", "P-256", x, y), wire.RsaKey("RSA-OAEP-256", x, y)):
            with pytest.raises(ProblemError):
                jwe.encrypt(b"x", key)
