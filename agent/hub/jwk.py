"""Keys that sign and verify sealed secrets, as JWK (RFC 7517, RFC 7518 section 6.2, RFC 8037).

The key settles the algorithm: P-256 is ES256, P-384 is ES384, Ed25519 is EdDSA, and nothing else is a key.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import read_json, url_decode, url_encode
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class Algorithm(msgspec.Struct, frozen=True):
    """One signature algorithm and the one kind of key it takes.

    Attributes:
        name: ``alg`` of the JWS header.
        kty: of the JWK.
        crv: of the JWK.
        size: bytes of a coordinate, of the private part and of half a signature.
        curve: None for Ed25519.
        digest: None for Ed25519.
    """

    name: str
    kty: str
    crv: str
    size: int
    curve: ec.EllipticCurve | None = None
    digest: hashes.HashAlgorithm | None = None

    @property
    def signature_size(self) -> int:
        """Bytes of a signature: r and s (RFC 7518 section 3.4), or R and S (RFC 8032 section 5.1.6)."""
        return 2 * self.size


ALGORITHMS: Final[Mapping[str, Algorithm]] = MappingProxyType(
    {
        algorithm.name: algorithm
        for algorithm in (
            Algorithm("ES256", "EC", "P-256", 32, ec.SECP256R1(), hashes.SHA256()),
            Algorithm("ES384", "EC", "P-384", 48, ec.SECP384R1(), hashes.SHA384()),
            Algorithm("EdDSA", "OKP", "Ed25519", 32),
        )
    }
)
_BY_KEY: Final = {(algorithm.kty, algorithm.crv): algorithm for algorithm in ALGORITHMS.values()}


class Jwk(msgspec.Struct, frozen=True):
    """A JWK as stored; members that are not listed are ignored.

    Attributes:
        kty: ``EC`` or ``OKP``.
        crv: ``P-256``, ``P-384`` or ``Ed25519``.
        x: base64url of the coordinate, big endian; of the public key for ``OKP``.
        y: base64url of the coordinate, big endian; ``EC`` only.
        alg: what the key is for; the one algorithm of its kind, if there at all.
        use: what the key is for; ``sig``, if there at all. Counts only without ``alg``.
        kid: key id, informative.
        d: base64url of the private part. Never read from a verification key.
    """

    kty: str
    crv: str
    x: str
    y: str | None = None
    alg: str | None = None
    use: str | None = None
    kid: str | None = None
    d: str | None = None

    def __repr__(self) -> str:
        return "Jwk(***)"

    @property
    def algorithm(self) -> Algorithm:
        """The one algorithm of this kind of key; :func:`read` has checked that there is one."""
        return _BY_KEY[self.kty, self.crv]


class VerifyingKey(msgspec.Struct, frozen=True):
    """A public key, and the only algorithm it verifies."""

    algorithm: Algorithm
    key: PublicKey

    def verify(self, signature: bytes, signed: bytes) -> None:
        """Return if the signature is good.

        High S is accepted: signers of sealed secrets do not normalise it (cdh.md 4.1).

        Args:
            signature: ``algorithm.signature_size`` bytes.
            signed: what is signed.

        Raises:
            AgentError: SEALED_SIGNATURE_INVALID.
        """
        try:
            if isinstance(self.key, ed25519.Ed25519PublicKey):
                self.key.verify(signature, signed)
            else:
                size = self.algorithm.size
                r, s = int.from_bytes(signature[:size]), int.from_bytes(signature[size:])
                self.key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(_digest(self.algorithm)))
        except InvalidSignature:
            detail = f"{self.algorithm.name} verification failed"
            raise AgentError(ErrorCode.SEALED_SIGNATURE_INVALID, detail) from None


class SigningKey(msgspec.Struct, frozen=True):
    """A private key, and the only algorithm it signs with."""

    algorithm: Algorithm
    key: PrivateKey

    def __repr__(self) -> str:
        return "SigningKey(***)"

    def sign(self, signed: bytes) -> bytes:
        """``algorithm.signature_size`` bytes.

        Deterministic: RFC 6979 without normalising S, as the ``secret`` tool (cdh.md 4.1); RFC 8032.
        """
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(signed)
        size = self.algorithm.size
        r, s = decode_dss_signature(
            self.key.sign(signed, ec.ECDSA(_digest(self.algorithm), deterministic_signing=True))
        )
        return r.to_bytes(size) + s.to_bytes(size)


def _digest(algorithm: Algorithm) -> hashes.HashAlgorithm:
    if algorithm.digest is None:
        raise AssertionError("only Ed25519 has no digest")
    return algorithm.digest


def read(text: bytes) -> Jwk:
    """Read a JWK; its numbers are not checked yet.

    Raises:
        AgentError: SEALED_KEY_INVALID.
    """
    # T-SEAL-6: what the broker or a file says is a key is bounded before it is parsed.
    if len(text) > limits.JWK_MAX:
        raise _bad(f"it has {len(text)} bytes, {limits.JWK_MAX} are allowed")
    jwk = read_json(text, Jwk, ErrorCode.SEALED_KEY_INVALID, "JWK")
    algorithm = _BY_KEY.get((jwk.kty, jwk.crv))
    if algorithm is None:
        raise _bad("it is none of EC P-256, EC P-384 and OKP Ed25519")
    # T-SEAL-12: a key made for something else does not sign secrets.
    if jwk.alg not in {None, algorithm.name}:
        raise _bad(f"its alg is not {algorithm.name}")
    # With an alg of ours it is a signing key, whatever use says: JWK generators ask for both, and upstream
    # compares neither with the key.
    if jwk.alg is None and jwk.use not in {None, "sig"}:
        raise _bad("its use is not sig, and it has no alg")
    return jwk


def verifying_key(jwk: Jwk) -> VerifyingKey:
    """The public key of a JWK; ``d`` is not looked at.

    Raises:
        AgentError: SEALED_KEY_INVALID, when a part has another size or the point is not on the curve.
    """
    algorithm = jwk.algorithm
    x = _part(jwk.x, "x", algorithm)
    if algorithm.curve is None:
        key = _taken(lambda: ed25519.Ed25519PublicKey.from_public_bytes(x), "it is no Ed25519 key")
        return VerifyingKey(algorithm, key)
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(x), int.from_bytes(_part(jwk.y or "", "y", algorithm)), algorithm.curve
    )
    # T-SEAL-7: the library checks that the point is on the curve.
    return VerifyingKey(algorithm, _taken(numbers.public_key, f"its point is not on {algorithm.crv}"))


def signing_key(jwk: Jwk) -> SigningKey:
    """The private key of a JWK.

    Raises:
        AgentError: SEALED_KEY_INVALID, also when ``d`` does not belong to the public part.
    """
    algorithm = jwk.algorithm
    if jwk.d is None:
        raise _bad("it has no private part")
    d = _part(jwk.d, "d", algorithm)
    key: PrivateKey
    if algorithm.curve is None:
        key = ed25519.Ed25519PrivateKey.from_private_bytes(d)
    else:
        curve = algorithm.curve
        key = _taken(
            lambda: ec.derive_private_key(int.from_bytes(d), curve), "its private part is out of range"
        )
    if key.public_key() != verifying_key(jwk).key:
        raise _bad("its private and public parts are of different keys")
    return SigningKey(algorithm, key)


def generate(algorithm: Algorithm, kid: str) -> tuple[Secret, bytes]:
    """A new key pair.

    Returns:
        The private and the public JWK as indented JSON with a newline: members ``kty``, ``crv``, ``x``,
        ``y`` (not for Ed25519), ``alg``, ``use``, ``kid``, and ``d`` in the private one.
    """
    if algorithm.curve is None:
        key = ed25519.Ed25519PrivateKey.generate()
        parts = {"x": url_encode(key.public_key().public_bytes_raw())}
        d = url_encode(key.private_bytes_raw())
    else:
        numbers = ec.generate_private_key(algorithm.curve).private_numbers()
        point = numbers.public_numbers
        parts = {name: url_encode(getattr(point, name).to_bytes(algorithm.size)) for name in ("x", "y")}
        d = url_encode(numbers.private_value.to_bytes(algorithm.size))
    public = {
        "kty": algorithm.kty,
        "crv": algorithm.crv,
        **parts,
        "alg": algorithm.name,
        "use": "sig",
        "kid": kid,
    }
    return Secret(_pretty({**public, "d": d})), _pretty(public)


def _pretty(jwk: Mapping[str, str]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(jwk), indent=2) + b"\n"


def _taken(make: Callable[[], T], otherwise: str) -> T:
    try:
        return make()
    except ValueError:
        raise _bad(otherwise) from None


def _part(text: str, member: str, algorithm: Algorithm) -> bytes:
    try:
        value = url_decode(text)
    except ValueError:
        raise _bad(f"{member} is not base64url without padding") from None
    if len(value) != algorithm.size:
        raise _bad(f"{member} has {len(value)} bytes, {algorithm.size} are needed")
    return value


def _bad(reason: str) -> AgentError:
    return AgentError(ErrorCode.SEALED_KEY_INVALID, f"the JWK cannot be used: {reason}")
