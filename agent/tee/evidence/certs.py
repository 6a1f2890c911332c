"""Certificates inside evidence: read leniently, believed only by signature and root."""

from __future__ import annotations

import hashlib
import warnings
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.config import pem
from agent.tee.evidence.reader import malformed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives import hashes

MAX_SIZE: Final = 16 * 1024
"""Bytes of one certificate; vendors' have 1 to 2 KiB."""

MAX_CHAIN: Final = 16
"""Certificates of one PEM chain; NVIDIA's has five."""


_UNREADABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


def load_der(data: bytes) -> x509.Certificate:
    """One certificate.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    if len(data) > MAX_SIZE:
        raise malformed("certificate", f"{len(data)} bytes")
    try:
        with warnings.catch_warnings():
            # AMD's certificates have the serial number 0 (attesters.md 20, row 22); names can be too long.
            warnings.simplefilter("ignore")
            certificate = x509.load_der_x509_certificate(data)
            _parse(certificate)
    except _UNREADABLE:
        raise malformed("certificate", "not an X.509 certificate in DER") from None
    return certificate


def load_pem_chain(data: bytes) -> tuple[x509.Certificate, ...]:
    """All certificates of a PEM text, in its order; what is around them is ignored.

    Raises:
        AgentError: EVIDENCE_MALFORMED, also for none.
    """
    if len(data) > MAX_CHAIN * MAX_SIZE:
        raise malformed("certificate chain", f"{len(data)} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ders = pem.certificates(data.decode("utf-8", "replace"))
            # Counted before they are parsed: an empty one takes a few bytes only.
            if len(ders) > MAX_CHAIN:
                raise malformed("certificate chain", f"{len(ders)} certificates")
            found = [x509.load_der_x509_certificate(der) for der in ders]
            for certificate in found:
                _parse(certificate)
    except _UNREADABLE:
        raise malformed("certificate chain", "not X.509 certificates in PEM") from None
    return tuple(found)


def _parse(certificate: x509.Certificate) -> None:
    """Key and names are parsed lazily; what cannot be used is found here and not in the middle of a check."""
    certificate.public_key()
    _ = certificate.subject, certificate.issuer


def der(certificate: x509.Certificate) -> bytes:
    """The certificate's bytes."""
    return certificate.public_bytes(Encoding.DER)


def key_pin(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo, 32 bytes."""
    info = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(info).digest()


def name(certificate: x509.Certificate) -> str:
    """The subject's common name, for people."""
    return _common(certificate.subject)


def issuer_name(certificate: x509.Certificate) -> str:
    """The issuer's common name, for people."""
    return _common(certificate.issuer)


def _common(subject: x509.Name) -> str:
    names = subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    # T-TEE-14: whoever made the evidence chose the name; it reaches logs and terminals.
    return ascii(str(names[0].value)[:64])[1:-1] if names else "unnamed"


def issued(issuer: x509.Certificate, child: x509.Certificate) -> bool:
    """Whether ``issuer`` signed ``child``: names match and the signature holds."""
    try:
        child.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def extensions(certificate: x509.Certificate) -> x509.Extensions | None:
    """The extensions; None when they cannot be read, or one is there twice."""
    try:
        return certificate.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return None


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether the certificate may sign others: by its basic constraints, or without them by its key usage."""
    # T-TEE-19: the key of an end certificate must not extend the chain below it.
    found = extensions(certificate)
    if found is None:
        return False
    try:
        return found.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        pass
    try:
        return found.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return False


def path(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], roots: frozenset[bytes]
) -> tuple[x509.Certificate, ...] | None:
    """A chain from ``leaf`` to a certificate with a key of ``roots``; leaf first, None if there is none.

    Every issuer in it is an authority. The root's signature by itself is not looked at: its key is pinned.
    Validity dates are not looked at: evidence is judged by signature and by the verifier's policy, as Trustee
    does (attesters.md 21.2).

    Args:
        leaf: what has to be proven.
        others: certificates that may lie between, in any order.
        roots: SHA-256 of SubjectPublicKeyInfo.
    """
    # Two certificates can have one key and name: the way to a root may lead through the second.
    ways: list[tuple[x509.Certificate, ...]] = [(leaf,)]
    seen = {der(leaf)}
    while ways:
        way = ways.pop()
        # T-TEE-10: a pinned key proves a certificate only if it also signed it.
        if len(way) > 1 and key_pin(way[-1]) in roots:
            return way
        # T-TEE-19: whoever holds an end certificate's key must not extend the chain by one of his own.
        for each in reversed(others):
            if der(each) not in seen and issued(each, way[-1]) and is_authority(each):
                seen.add(der(each))
                ways.append((*way, each))
    return None


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
