"""The TEE key pair: its public half is bound into evidence, the broker encrypts to it.

Formats: JWK members of kbs_protocol.md 1.7, PEM encodings of 5.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from agent.config import limits, pem
from agent.config.model import KeyAlgorithm
from agent.errors import AgentError, ErrorCode
from agent.kbs.messages import b64url_encode
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

EC_ALG: Final = "ECDH-ES+A256KW"
RSA_ALG: Final = "RSA-OAEP-256"

_CURVES: Final[Mapping[KeyAlgorithm, ec.EllipticCurve]] = {
    KeyAlgorithm.EC_P256: ec.SECP256R1(),
    KeyAlgorithm.EC_P521: ec.SECP521R1(),
}
_CURVE_NAMES: Final[Mapping[KeyAlgorithm, str]] = {
    KeyAlgorithm.EC_P256: "P-256",
    KeyAlgorithm.EC_P521: "P-521",
}
_RSA_BITS: Final = 2048
_RSA_MAX_BITS: Final = 4096
_PEM_MAX: Final = 16 * limits.KIB  # RSA 4096 takes 3.2 KiB
_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


class TeeKey:
    """A private key of one of the three algorithms the broker can encrypt to.

    Attributes:
        algorithm: which of the three.
    """

    __slots__ = ("_private", "algorithm")

    def __init__(
        self, algorithm: KeyAlgorithm, private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    ) -> None:
        self.algorithm = algorithm
        self._private = private

    @classmethod
    def generate(cls, algorithm: KeyAlgorithm) -> TeeKey:
        """A new key pair. RSA (2048 bits) takes up to seconds: call it in a thread."""
        if algorithm is KeyAlgorithm.RSA:
            return cls(algorithm, rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS))
        return cls(algorithm, ec.generate_private_key(_CURVES[algorithm]))

    @classmethod
    def from_pem(cls, content: bytes) -> TeeKey:
        """Read an unencrypted key: EC P-256 or P-521 in PKCS#8, RSA of 2048 to 4096 bits in PKCS#1.

        Raises:
            AgentError: KBS_BAD_RESPONSE. Keys arrive with a token from an attestation agent.
        """
        if len(content) > _PEM_MAX:  # T-TOKEN-21: bounded before parsing.
            raise AgentError(ErrorCode.KBS_BAD_RESPONSE, "the TEE key is too large")
        # Here and below: SSH and DSA come with it, and most guests' keys never leave the process.
        from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

        try:
            private = load_pem_private_key(pem.key(content, "PRIVATE KEY"), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise AgentError(
                ErrorCode.KBS_BAD_RESPONSE, "the TEE key is not an unencrypted PEM key"
            ) from None
        # T-TOKEN-22: only what the protocol knows, so a weak key cannot be planted.
        if isinstance(private, rsa.RSAPrivateKey) and _RSA_BITS <= private.key_size <= _RSA_MAX_BITS:
            return cls(KeyAlgorithm.RSA, private)
        if isinstance(private, ec.EllipticCurvePrivateKey):
            for algorithm, curve in _CURVES.items():
                if private.curve.name == curve.name:
                    return cls(algorithm, private)
        raise AgentError(ErrorCode.KBS_BAD_RESPONSE, "the TEE key is of an unknown kind or size")

    def pem(self) -> Secret:
        """The private key, unencrypted: EC as PKCS#8, RSA as PKCS#1, as Rust's reader expects."""
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
            Encoding,
            NoEncryption,
            PrivateFormat,
        )

        rsa_key = isinstance(self._private, rsa.RSAPrivateKey)
        form = PrivateFormat.TraditionalOpenSSL if rsa_key else PrivateFormat.PKCS8
        return Secret(self._private.private_bytes(Encoding.PEM, form, NoEncryption()))

    def jwk(self) -> dict[str, str]:
        """The public key with exactly the members of kbs_protocol.md 1.7.

        One more would be hashed here and dropped by the broker, and the evidence would be refused.
        """
        if isinstance(self._private, rsa.RSAPrivateKey):
            public = self._private.public_key().public_numbers()
            return {"kty": "RSA", "alg": RSA_ALG, "n": _integer(public.n), "e": _integer(public.e)}
        point = self._private.public_key().public_numbers()
        size = self.size
        return {
            "kty": "EC",
            "crv": _CURVE_NAMES[self.algorithm],
            "alg": EC_ALG,
            "x": b64url_encode(point.x.to_bytes(size, "big")),
            "y": b64url_encode(point.y.to_bytes(size, "big")),
        }

    @property
    def alg(self) -> str:
        """The JWE ``alg`` that this key decrypts."""
        return RSA_ALG if self.algorithm is KeyAlgorithm.RSA else EC_ALG

    @property
    def size(self) -> int:
        """Bytes of one EC coordinate (32 or 66), or of the RSA modulus."""
        return (self._private.key_size + 7) // 8

    def agree(self, curve: str, x: bytes, y: bytes) -> bytes:
        """ECDH with an ephemeral public key.

        Args:
            curve: JWK name of the other key's curve.
            x: coordinate, as many bytes as this key's curve has.
            y: coordinate, likewise.

        Returns:
            The shared x coordinate, 32 or 66 bytes.

        Raises:
            ValueError: this is not an EC key, another curve, wrong sizes, or a point off the curve.
        """
        if not isinstance(self._private, ec.EllipticCurvePrivateKey) or curve != _CURVE_NAMES[self.algorithm]:
            raise ValueError("the ephemeral key is not on this key's curve")
        if not len(x) == len(y) == self.size:
            raise ValueError("a coordinate of the ephemeral key has the wrong length")
        # T-KBS-27: invalid-curve points are refused by the library when the point is built.
        point = ec.EllipticCurvePublicKey.from_encoded_point(self._private.curve, b"\x04" + x + y)
        return self._private.exchange(ec.ECDH(), point)

    def rsa_unwrap(self, wrapped: bytes) -> bytes:
        """RSA-OAEP with SHA-256 and MGF1-SHA-256, empty label (RFC 7518 4.3).

        Raises:
            ValueError: this is not an RSA key, wrong size, or it does not decrypt.
        """
        if not isinstance(self._private, rsa.RSAPrivateKey) or len(wrapped) != self.size:
            raise ValueError("the encrypted key has the wrong length")
        return self._private.decrypt(wrapped, _OAEP)

    def __repr__(self) -> str:
        return f"TeeKey({self.algorithm.value})"


def _integer(value: int) -> str:
    return b64url_encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))
