"""Certificates inside evidence: read leniently, believed only by signature and root."""

from __future__ import annotations

import hashlib
import warnings
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning

from agent.tee.evidence.reader import malformed

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_SIZE: Final = 16 * 1024
"""Bytes of one certificate; vendors' have 1 to 2 KiB."""

MAX_CHAIN: Final = 16
"""Certificates of one PEM chain; NVIDIA's has five."""


def load_der(data: bytes) -> x509.Certificate:
    """One certificate.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    if len(data) > MAX_SIZE:
        raise malformed("certificate", f"{len(data)} bytes")
    try:
        with warnings.catch_warnings():
            # AMD's certificates have the serial number 0 (attesters.md 20, row 22).
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            certificate = x509.load_der_x509_certificate(data)
            certificate.public_key()  # parsed lazily: one that cannot be used is found here
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise malformed("certificate", "not an X.509 certificate in DER") from None
    return certificate


def load_pem_chain(data: bytes) -> tuple[x509.Certificate, ...]:
    """All certificates of a PEM text, in its order; trailing NULs are ignored.

    Raises:
        AgentError: EVIDENCE_MALFORMED, also for none.
    """
    if len(data) > MAX_CHAIN * MAX_SIZE:
        raise malformed("certificate chain", f"{len(data)} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            found = x509.load_pem_x509_certificates(data.rstrip(b"\0"))
            for certificate in found:
                certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise malformed("certificate chain", "not X.509 certificates in PEM") from None
    if len(found) > MAX_CHAIN:
        raise malformed("certificate chain", f"{len(found)} certificates")
    return tuple(found)


def der(certificate: x509.Certificate) -> bytes:
    """The certificate's bytes."""
    return certificate.public_bytes(Encoding.DER)


def key_pin(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo, 32 bytes."""
    info = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(info).digest()


def name(certificate: x509.Certificate) -> str:
    """The subject's common name, for people."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value)[:64] if names else "unnamed"


def issued(issuer: x509.Certificate, child: x509.Certificate) -> bool:
    """Whether ``issuer`` signed ``child``: names match and the signature holds."""
    try:
        child.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def path(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], roots: frozenset[bytes]
) -> tuple[x509.Certificate, ...] | None:
    """A chain from ``leaf`` to a certificate with a key of ``roots``; leaf first, None if there is none.

    Validity dates are not looked at: evidence is judged by signature and by the verifier's policy, as Trustee
    does (attesters.md 21.2).

    Args:
        leaf: what has to be proven.
        others: certificates that may lie between, in any order.
        roots: SHA-256 of SubjectPublicKeyInfo.
    """
    chain, left = [leaf], list(others)
    while key_pin(chain[-1]) not in roots:
        issuer = next((each for each in left if issued(each, chain[-1])), None)
        if issuer is None:
            return None
        left.remove(issuer)
        chain.append(issuer)
    # T-TEE-10: a pinned key proves a certificate only if it also signed it.
    return tuple(chain) if len(chain) > 1 else None
