"""Compact JWS with ES256, and the P-256 keys for it (RFC 7515, RFC 7517, RFC 7518 sections 3.4 and 6.2).

Only what sealed secrets use: one algorithm, one curve, the key named by ``kid``. The header members
``jwk``, ``jku`` and ``x5c`` are never looked at: a message does not bring its own key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import read_json, url_decode, url_encode

ALGORITHM: Final = "ES256"
COORDINATE_SIZE: Final = 32
SIGNATURE_SIZE: Final = 2 * COORDINATE_SIZE


class _Header(msgspec.Struct, frozen=True):
    alg: str
    kid: str
    crit: object = msgspec.UNSET
    b64: object = msgspec.UNSET


class Jwk(msgspec.Struct, frozen=True):
    """A P-256 JWK as stored; members that are not listed are ignored.

    Attributes:
        kty: ``EC``.
        crv: ``P-256``.
        x: base64url of 32 bytes, big endian.
        y: base64url of 32 bytes, big endian.
        kid: key id, informative.
        d: base64url of the 32-byte private scalar. Never read from a verification key.
    """

    kty: str
    crv: str
    x: str
    y: str
    kid: str | None = None
    d: str | None = None

    def __repr__(self) -> str:
        return "Jwk(***)"


@dataclass(frozen=True, slots=True)
class Jws:
    """A compact JWS whose header was checked and whose signature was **not**.

    Attributes:
        kid: as in the header, not checked.
        signed: the ASCII bytes under the signature, ``<header>.<payload>``.
        payload: decoded; not to be parsed before :meth:`verify`.
        signature: 64 bytes, r and s, 32 bytes each, big endian.
    """

    kid: str
    signed: bytes
    payload: bytes
    signature: bytes

    def verify(self, key: ec.EllipticCurvePublicKey) -> bytes:
        """The payload, once the signature is good.

        High S is accepted: signers of sealed secrets do not normalise it (cdh.md 4.1).

        Raises:
            AgentError: SEALED_SIGNATURE_INVALID.
        """
        r, s = (int.from_bytes(half) for half in _halves(self.signature))
        try:
            key.verify(encode_dss_signature(r, s), self.signed, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise AgentError(ErrorCode.SEALED_SIGNATURE_INVALID, "ES256 verification failed") from None
        return self.payload


def parse_compact(text: str) -> Jws:
    """Take a compact JWS apart and check its header, before any key is looked for.

    Args:
        text: bounded by the caller.

    Raises:
        AgentError: SEALED_MALFORMED, SEALED_UNSUPPORTED (algorithm, critical header, unencoded payload).
    """
    parts = text.split(".")
    if len(parts) != 3:
        raise _malformed(f"{len(parts)} parts in the JWS, 3 are needed")
    try:
        header, payload, signature = (url_decode(part) for part in parts)
    except ValueError:
        raise _malformed("a part of the JWS is not base64url without padding") from None
    if len(signature) != SIGNATURE_SIZE:
        raise _malformed(f"the signature has {len(signature)} bytes, {SIGNATURE_SIZE} are needed")
    kid = _checked(read_json(header, _Header, ErrorCode.SEALED_MALFORMED, "JWS header")).kid
    return Jws(kid, f"{parts[0]}.{parts[1]}".encode(), payload, signature)


def _checked(header: _Header) -> _Header:
    # T-SEAL-4: one algorithm, settled before a key is fetched; `none` and HMAC never reach a key.
    if header.alg != ALGORITHM:
        raise _unsupported("the JWS algorithm must be ES256")
    # T-SEAL-5: an extension we do not know must not be taken for its absence (RFC 7515, 4.1.11).
    if header.crit is not msgspec.UNSET:
        raise _unsupported("the JWS header has critical members")
    if header.b64 is not msgspec.UNSET and header.b64 is not True:
        raise _unsupported("the JWS payload is not encoded (RFC 7797)")
    return header


def sign_compact(kid: str, payload: bytes, key: ec.EllipticCurvePrivateKey) -> str:
    """A compact JWS with header ``{"alg":"ES256","kid":...}``.

    Deterministic (RFC 6979), S not normalised: the same text as the ``secret`` tool's (cdh.md 4.1).
    """
    header = msgspec.json.encode({"alg": ALGORITHM, "kid": kid})
    signed = f"{url_encode(header)}.{url_encode(payload)}"
    algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    r, s = decode_dss_signature(key.sign(signed.encode(), algorithm))
    return f"{signed}.{url_encode(r.to_bytes(COORDINATE_SIZE) + s.to_bytes(COORDINATE_SIZE))}"


def read_jwk(text: bytes) -> Jwk:
    """Read a JWK; its numbers are not checked yet.

    Raises:
        AgentError: SEALED_KEY_INVALID.
    """
    # T-SEAL-6: what the broker or a file says is a key is bounded before it is parsed.
    if len(text) > limits.JWK_MAX:
        raise _bad_key(f"it has {len(text)} bytes, {limits.JWK_MAX} are allowed")
    jwk = read_json(text, Jwk, ErrorCode.SEALED_KEY_INVALID, "JWK")
    if jwk.kty != "EC" or jwk.crv != "P-256":
        raise _bad_key("it is not kty EC with crv P-256")
    return jwk


def public_key(jwk: Jwk) -> ec.EllipticCurvePublicKey:
    """The verification key of a JWK; ``d`` is not looked at.

    Raises:
        AgentError: SEALED_KEY_INVALID, when a coordinate is not 32 bytes or the point is not on the curve.
    """
    numbers = ec.EllipticCurvePublicNumbers(_number(jwk.x, "x"), _number(jwk.y, "y"), ec.SECP256R1())
    try:
        # T-SEAL-7: the library checks that the point is on the curve.
        return numbers.public_key()
    except ValueError:
        raise _bad_key("its point is not on P-256") from None


def private_key(jwk: Jwk) -> ec.EllipticCurvePrivateKey:
    """The signing key of a JWK.

    Raises:
        AgentError: SEALED_KEY_INVALID, also when ``d`` does not belong to the point.
    """
    if jwk.d is None:
        raise _bad_key("it has no private part")
    try:
        key = ec.derive_private_key(_number(jwk.d, "d"), ec.SECP256R1())
    except ValueError:
        raise _bad_key("its private part is out of range") from None
    if key.public_key() != public_key(jwk):
        raise _bad_key("its private and public parts are of different keys")
    return key


def _number(text: str, member: str) -> int:
    try:
        value = url_decode(text)
    except ValueError:
        raise _bad_key(f"{member} is not base64url without padding") from None
    if len(value) != COORDINATE_SIZE:
        raise _bad_key(f"{member} has {len(value)} bytes, {COORDINATE_SIZE} are needed")
    return int.from_bytes(value)


def _halves(signature: bytes) -> tuple[bytes, bytes]:
    return signature[:COORDINATE_SIZE], signature[COORDINATE_SIZE:]


def _malformed(reason: str) -> AgentError:
    return AgentError(ErrorCode.SEALED_MALFORMED, reason)


def _unsupported(reason: str) -> AgentError:
    return AgentError(ErrorCode.SEALED_UNSUPPORTED, reason)


def _bad_key(reason: str) -> AgentError:
    return AgentError(ErrorCode.SEALED_KEY_INVALID, f"the JWK cannot be used: {reason}")
