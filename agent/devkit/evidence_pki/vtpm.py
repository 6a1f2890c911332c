"""A TPM's quote without a TPM (TCG TPM 2.0 Library part 2, 10.12; attesters.md 6.1)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

ALL_PCRS: Final = bytes.fromhex("00000001000b03ffffff")
"""TPML_PCR_SELECTION: PCR 0 to 23 of the SHA-256 bank."""


class TpmSigner:
    """An attestation key in software.

    Attributes:
        public: its public part.
    """

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(65537, 2048)
        self.public: rsa.RSAPublicKey = self._key.public_key()

    @property
    def public_der(self) -> bytes:
        """SubjectPublicKeyInfo."""
        return self.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def quote(self, nonce: bytes, pcrs: Sequence[bytes], selection: bytes = ALL_PCRS) -> tuple[bytes, bytes]:
        """TPMS_ATTEST and its raw RSA signature.

        Args:
            nonce: extra data, at most 66 bytes.
            pcrs: values of the PCRs, 32 bytes each.
            selection: what the quote says it is over.
        """
        digest = hashlib.sha256(b"".join(pcrs)).digest()
        message = (
            bytes.fromhex("ff544347 8018")
            + _sized(bytes.fromhex("000b") + hashlib.sha256(self.public_der).digest())
            + _sized(nonce)
            + (12345).to_bytes(8, "big")
            + bytes(8)
            + b"\1"
            + (0x2020_0312_0012_8000).to_bytes(8, "big")
            + selection
            + _sized(digest)
        )
        return message, self._key.sign(message, padding.PKCS1v15(), hashes.SHA256())


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
