"""What chains of certificates and raw ECDSA signatures have in common for quotes and device reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from agent.tee.evidence import certs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes


def chain_to_root(
    given: Sequence[x509.Certificate], extra: Sequence[bytes], roots: frozenset[bytes]
) -> tuple[x509.Certificate, ...] | None:
    """The chain from the first certificate to an accepted root; None without one.

    Args:
        given: leaf first, the others in any order.
        extra: DER certificates that may complete the chain.
        roots: SHA-256 of SubjectPublicKeyInfo.
    """
    return certs.path(given[0], [*given[1:], *(certs.load_der(each) for each in extra)], roots)


def signed_by(
    key: object, signature: bytes, message: bytes, curve: type[ec.EllipticCurve], digest: hashes.HashAlgorithm
) -> bool:
    """Whether ``signature`` (r and s, big-endian, equal sizes) of ``message`` is by ``key`` on ``curve``."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, curve):
        return False
    half = len(signature) // 2
    r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(digest))
    except InvalidSignature:
        return False
    return True
