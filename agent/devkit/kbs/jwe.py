"""Encryption of answers to the key in a token (kbs_protocol.md 4, RFC 7516, RFC 7518 4.6)."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from agent.devkit.kbs import wire
from agent.devkit.kbs.answers import ProblemError

if TYPE_CHECKING:
    from collections.abc import Mapping

EC_ALG: Final = "ECDH-ES+A256KW"
RSA_ALG: Final = "RSA-OAEP-256"
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192

_CURVES: Final[Mapping[str, tuple[ec.EllipticCurve, int]]] = {
    "P-256": (ec.SECP256R1(), 32),
    "P-521": (ec.SECP521R1(), 66),
}


class _EphemeralKey(msgspec.Struct, frozen=True):
    crv: str
    kty: str
    x: str
    y: str


class _Header(msgspec.Struct, frozen=True, omit_defaults=True):
    alg: str
    enc: str
    epk: _EphemeralKey | None = None


class Jwe(msgspec.Struct, frozen=True):
    """Flattened JSON serialisation; every member is base64url without padding."""

    protected: str
    encrypted_key: str
    iv: str
    ciphertext: str
    tag: str


def encrypt(plaintext: bytes, key: wire.TeePubKey) -> bytes:
    """The JWE of ``plaintext`` as compact JSON.

    Raises:
        ProblemError: JweError, for a curve, algorithm or key that is not supported.
    """
    cek = os.urandom(32)
    try:
        header, wrapped = _wrap_ec(cek, key) if isinstance(key, wire.EcKey) else _wrap_rsa(cek, key)
    except (wire.MalformedError, ValueError) as error:
        raise ProblemError("JweError", "JWE failed", "tee-pubkey cannot be used") from error
    protected = wire.b64url(msgspec.json.encode(header))
    iv = os.urandom(12)
    sealed = AESGCM(cek).encrypt(iv, plaintext, protected.encode("ascii"))
    return msgspec.json.encode(
        Jwe(
            protected,
            wire.b64url(wrapped),
            wire.b64url(iv),
            wire.b64url(sealed[:-16]),
            wire.b64url(sealed[-16:]),
        )
    )


def stranger(key: wire.TeePubKey, *, other_curve: bool = False) -> wire.TeePubKey:
    """A key that nobody holds, of the same kind as ``key``, or on a curve that ``key`` is not on."""
    if isinstance(key, wire.RsaKey) and not other_curve:
        public = rsa.generate_private_key(65537, MIN_RSA_BITS).public_key().public_numbers()
        size = (public.n.bit_length() + 7) // 8
        return wire.RsaKey(key.alg, wire.b64url(public.n.to_bytes(size, "big")), key.e)
    held = key.crv if isinstance(key, wire.EcKey) else ""
    name = held if held in _CURVES and not other_curve else next(each for each in _CURVES if each != held)
    curve, size = _CURVES[name]
    point = ec.generate_private_key(curve).public_key().public_numbers()
    x, y = (wire.b64url(part.to_bytes(size, "big")) for part in (point.x, point.y))
    return wire.EcKey(EC_ALG, name, x, y)


def _wrap_ec(cek: bytes, key: wire.EcKey) -> tuple[_Header, bytes]:
    if key.alg != EC_ALG or key.crv not in _CURVES:
        raise wire.MalformedError("algorithm or curve")
    curve, size = _CURVES[key.crv]
    x, y = wire.unb64url(key.x), wire.unb64url(key.y)
    if (len(x), len(y)) != (size, size):
        raise wire.MalformedError("coordinates have the curve's full length")
    recipient = ec.EllipticCurvePublicNumbers(
        int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve
    ).public_key()
    ephemeral = ec.generate_private_key(curve)
    shared = ephemeral.exchange(ec.ECDH(), recipient)
    own = ephemeral.public_key().public_numbers()
    epk = _EphemeralKey(
        key.crv, "EC", wire.b64url(own.x.to_bytes(size, "big")), wire.b64url(own.y.to_bytes(size, "big"))
    )
    return _Header(EC_ALG, "A256GCM", epk), aes_key_wrap(concat_kdf(shared), cek)


def concat_kdf(shared: bytes) -> bytes:
    """The 32-byte key that wraps the content key: one round, empty party information."""
    alg = EC_ALG.encode("ascii")
    info = len(alg).to_bytes(4, "big") + alg + bytes(8) + (256).to_bytes(4, "big")
    return hashlib.sha256(b"\x00\x00\x00\x01" + shared + info).digest()


def _wrap_rsa(cek: bytes, key: wire.RsaKey) -> tuple[_Header, bytes]:
    if key.alg != RSA_ALG:
        raise wire.MalformedError("algorithm")
    n, e = (int.from_bytes(wire.unb64url(part), "big") for part in (key.n, key.e))
    if not MIN_RSA_BITS <= n.bit_length() <= MAX_RSA_BITS:
        raise wire.MalformedError("modulus size")
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    return _Header(RSA_ALG, "A256GCM"), rsa.RSAPublicNumbers(e, n).public_key().encrypt(cek, oaep)
