from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.devkit.kbs import tokens, verifiers, wire
from agent.devkit.kbs.answers import ProblemError

from .guest import Guest, claims_of

NOW = 1_790_000_000.0
SIGNER = tokens.Signer()
TRUSTED = {SIGNER.jwk}
INIT = {"format": "toml", "body": 'algorithm = "sha256"\nversion = "0.1.0"\n[data]\nrole = "web"\n'}


def appraisals(guest: Guest, *, device: bool = False) -> list[verifiers.Appraisal]:
    body = guest.attestation("nonce", device=device, init_data=INIT)
    return verifiers.verify("sample", wire.decode(json.dumps(body).encode(), wire.Attestation), "sha384")


def issued(life: float = 300, padding: int = 0) -> str:
    return SIGNER.sign(tokens.ear_claims(appraisals(Guest()), NOW, life, padding))


def test_an_independent_library_verifies_the_token_with_the_key_in_its_header() -> None:
    guest = Guest()
    claims = claims_of(SIGNER.sign(tokens.ear_claims(appraisals(guest, device=True), NOW, 300)))
    assert (claims["iat"], claims["exp"], claims["iss"]) == (NOW, NOW + 300, "CoCo-Attestation-Service")
    assert set(claims["submods"]) == {"cpu0", "gpu0"}
    cpu = claims["submods"]["cpu0"]
    assert cpu["ear.status"] == "contraindicated"
    evidence = cpu["ear.veraison.annotated-evidence"]
    assert evidence["sample"]["launch_digest"] == "abcde"
    assert evidence["runtime_data_claims"]["tee-pubkey"] == guest.public
    assert evidence["runtime_data_claims"]["nonce"] == "nonce"
    assert json.loads(evidence["runtime_data_claims"]["additional-evidence"])["sampledevice"]["svn"] == "2"
    assert evidence["init_data_claims"] == {"role": "web"}
    device = claims["submods"]["gpu0"]["ear.veraison.annotated-evidence"]
    assert device["sampledevice"] == {"svn": "2"}
    assert set(device["runtime_data_claims"]) == {"nonce", "tee-pubkey"}
    assert "init_data" not in device


def test_own_tokens_verify_until_a_minute_after_their_end() -> None:
    jwt = issued()
    assert tokens.verify(jwt, TRUSTED, NOW)["exp"] == NOW + 300
    assert tokens.verify(jwt, TRUSTED, NOW + 360)
    with pytest.raises(ProblemError) as caught:
        tokens.verify(jwt, TRUSTED, NOW + 360.5)
    assert (caught.value.kind, caught.value.detail) == ("TokenVerifierError", "Token Verifier error")


def test_a_key_the_token_brings_along_is_not_trusted_for_that() -> None:
    jwt = tokens.Signer().sign(tokens.ear_claims(appraisals(Guest()), NOW, 300))
    with pytest.raises(ProblemError):
        tokens.verify(jwt, TRUSTED, NOW)


def test_a_changed_payload_header_or_signature_is_refused() -> None:
    header, payload, signature = issued().split(".")
    other = wire.b64url(b'{"exp":99999999999}')
    unsigned = wire.b64url(wire.unb64url(header).replace(b"ES256", b"none", 1))
    for jwt in (
        f"{header}.{other}.{signature}",
        f"{unsigned}.{payload}.{signature}",
        f"{header}.{payload}.",
        f"{header}.{payload}.{wire.b64url(bytes(64))}",
        f"{header}.{payload}",
        f"{header}.{payload}.{signature}.x",
        f"{header}.{payload}.{signature}=",
    ):
        with pytest.raises(ProblemError):
            tokens.verify(jwt, TRUSTED, NOW)


def test_a_token_without_expiry_is_refused() -> None:
    with pytest.raises(ProblemError):
        tokens.verify(SIGNER.sign({"iat": 1}), TRUSTED, NOW)


@settings(max_examples=150)
@given(text=st.text(max_size=80), parts=st.lists(st.binary(max_size=30), min_size=3, max_size=3))
def test_any_text_is_refused_cleanly(text: str, parts: list[bytes]) -> None:
    for jwt in (text, ".".join(wire.b64url(part) for part in parts), issued() + text.replace("=", "") + "A"):
        with pytest.raises(ProblemError):
            tokens.verify(jwt, TRUSTED, NOW)


def test_padding_makes_a_token_large_and_leaves_it_valid() -> None:
    jwt = issued(padding=200_000)
    assert len(jwt) > 200_000
    assert tokens.verify(jwt, TRUSTED, NOW)


def test_the_key_is_found_at_the_first_path_that_exists() -> None:
    ec = {"kty": "EC", "alg": "a", "crv": "P-256", "x": "x", "y": "y"}
    rsa = {"kty": "RSA", "alg": "a", "n": "n", "e": "e"}
    assert tokens.tee_key({"tee-pubkey": ec}) == wire.EcKey("a", "P-256", "x", "y")
    ita = {"tee-pubkey": ec, "tdx": {"attester_runtime_data": {"tee-pubkey": rsa}}}
    assert tokens.tee_key(ita) == wire.RsaKey("a", "n", "e")
    for claims in ({}, {"tee-pubkey": {"kty": "OKP"}}, {"tee-pubkey": "text"}, {"tee-pubkey": {"kty": "EC"}}):
        with pytest.raises(ProblemError, match="TokenVerifierError"):
            tokens.tee_key(claims)


def test_the_primary_tee_is_that_of_cpu0() -> None:
    claims = tokens.ear_claims(appraisals(Guest(), device=True), NOW, 300)
    assert tokens.primary_tee(json.loads(json.dumps(claims | {"submods": claims["submods"]}))) == "sample"
    assert tokens.primary_tee({}) == ""
