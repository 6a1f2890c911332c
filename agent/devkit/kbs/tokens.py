"""EAR tokens: issue and verify (kbs_protocol.md 5.2, 5.3, 5.5)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from agent.devkit.kbs import wire
from agent.devkit.kbs.answers import token_refused

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from agent.devkit.kbs.verifiers import Appraisal

LEEWAY: Final = 60.0
"""Seconds a token is still accepted after its ``exp``."""

TEE_KEY_PATHS: Final = (
    "tdx/attester_runtime_data/tee-pubkey",
    "tdx/attester_user_data/tee-pubkey",
    "customized_claims/runtime_data/tee-pubkey",
    "submods/cpu0/ear.veraison.annotated-evidence/runtime_data_claims/tee-pubkey",
    "tee-pubkey",
)

_VECTOR: Final = {
    "instance-identity": 0,
    "configuration": 36,
    "executables": 33,
    "file-system": 0,
    "hardware": 97,
    "runtime-opaque": 0,
    "storage-opaque": 0,
    "sourced-data": 0,
}
"""What Trustee's default attestation policy says about a sample without reference values."""


class SignerJwk(msgspec.Struct, frozen=True):
    """Public key of a token signer."""

    alg: str
    kty: str
    crv: str
    x: str
    y: str


class _Header(msgspec.Struct, frozen=True):
    alg: str
    jwk: SignerJwk
    typ: str = "JWT"


class _Expiry(msgspec.Struct, frozen=True):
    exp: float


class Signer:
    """An ephemeral P-256 key, made when the object is."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        numbers = self._key.public_key().public_numbers()
        self.jwk = SignerJwk(
            "ES256",
            "EC",
            "P-256",
            wire.b64url(numbers.x.to_bytes(32, "big")),
            wire.b64url(numbers.y.to_bytes(32, "big")),
        )

    def sign(self, claims: Mapping[str, object]) -> str:
        """A JWT, ES256, with the key in its header."""
        header = msgspec.json.encode(_Header("ES256", self.jwk))
        text = f"{wire.b64url(header)}.{wire.b64url(msgspec.json.encode(claims))}"
        der = self._key.sign(text.encode("ascii"), ec.ECDSA(hashes.SHA256()))
        r, s = decode_dss_signature(der)
        return f"{text}.{wire.b64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def ear_claims(
    appraisals: Sequence[Appraisal], now: float, life: float, padding: int = 0
) -> dict[str, object]:
    """The payload of a token.

    Args:
        appraisals: primary evidence first.
        now: seconds since the Unix epoch.
        life: seconds until ``exp``; negative for a token that is dead on arrival.
        padding: bytes of a claim that means nothing, to make the token large.
    """
    counts: Counter[str] = Counter()
    submods: dict[str, object] = {}
    for appraisal in appraisals:
        submods[f"{appraisal.submod_class}{counts[appraisal.submod_class]}"] = _submod(appraisal)
        counts[appraisal.submod_class] += 1
    claims: dict[str, object] = {
        "eat_profile": "tag:github.com,2024:confidential-containers/Trustee",
        "iat": int(now + min(0.0, life)),
        "exp": int(now + life),
        "iss": "CoCo-Attestation-Service",
        "ear.verifier-id": {
            "developer": "https://confidentialcontainers.org",
            "build": "attestation-service 0.1.0",
        },
        "submods": submods,
    }
    return claims | ({"padding": "x" * padding} if padding else {})


def _submod(appraisal: Appraisal) -> dict[str, object]:
    evidence: dict[str, object] = {
        appraisal.tee: appraisal.hardware,
        "report_data": appraisal.report_data,
        "runtime_data_claims": appraisal.runtime,
    }
    if appraisal.init_data:
        evidence["init_data"] = appraisal.init_data
        if appraisal.init_claims is not None:
            evidence["init_data_claims"] = appraisal.init_claims
    return {
        "ear.status": "contraindicated",
        "ear.trustworthiness-vector": _VECTOR,
        "ear.appraisal-policy-id": "default",
        "ear.trustee.identifiers": {"validated": {}},
        "ear.veraison.annotated-evidence": evidence,
    }


def verify(jwt: str, trusted: Collection[SignerJwk], now: float) -> dict[str, object]:
    """Claims of a token that one of ``trusted`` signed and that has not expired.

    Trustee's ``insecure_header_jwk`` believes any key a token brings along; here the key must be known.

    Raises:
        ProblemError: TokenVerifierError.
    """
    try:
        return _verify(jwt, trusted, now)
    except wire.MalformedError as error:
        raise token_refused(str(error)) from error


def _verify(jwt: str, trusted: Collection[SignerJwk], now: float) -> dict[str, object]:
    parts = jwt.split(".")
    if len(parts) != 3:
        raise wire.MalformedError("a JWT has three parts")
    header = wire.decode(wire.unb64url(parts[0]), _Header)
    # T-DEV-2: a token brings its key along; only keys this server was told to trust count.
    if header.alg != "ES256" or header.jwk not in trusted:
        raise wire.MalformedError("signed by an untrusted key")
    _check_signature(header.jwk, f"{parts[0]}.{parts[1]}", wire.unb64url(parts[2]))
    payload = wire.unb64url(parts[1])
    if wire.decode(payload, _Expiry).exp + LEEWAY < now:
        raise wire.MalformedError("expired")
    return wire.decode(payload, dict[str, object])


def _check_signature(jwk: SignerJwk, text: str, signature: bytes) -> None:
    if len(signature) != 64:
        raise wire.MalformedError("an ES256 signature has 64 bytes")
    der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    x, y = (int.from_bytes(wire.unb64url(part), "big") for part in (jwk.x, jwk.y))
    key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    try:
        key.verify(der, text.encode("ascii"), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise wire.MalformedError("signature does not verify") from None


def lookup(claims: Mapping[str, object], path: str) -> object | None:
    """The claim at a path of names joined with ``/``, or None."""
    value: object = claims
    for name in path.split("/"):
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    return value


def tee_key(claims: Mapping[str, object]) -> wire.TeePubKey:
    """The key answers are encrypted to: the first path that exists decides.

    Raises:
        ProblemError: TokenVerifierError.
    """
    for path in TEE_KEY_PATHS:
        value = lookup(claims, path)
        if value is not None:
            try:
                form: wire.TeePubKey = msgspec.convert(value, wire.EcKey | wire.RsaKey)
            except msgspec.ValidationError as error:
                raise token_refused("tee-pubkey is malformed") from error
            return form
    raise token_refused("no tee-pubkey claim")


def primary_tee(claims: Mapping[str, object]) -> str:
    """The TEE whose claims are in ``cpu0``, or empty."""
    evidence = lookup(claims, "submods/cpu0/ear.veraison.annotated-evidence")
    names = wire.TEES & set(evidence) if isinstance(evidence, dict) else set()
    return min(names, default="")
