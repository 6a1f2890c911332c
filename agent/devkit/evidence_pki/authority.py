"""What the throw-away vendors share: names, certificates, DER."""

from __future__ import annotations

import datetime
import hashlib
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

LIFE: Final = datetime.timedelta(days=30)
THROW_AWAY: Final = "coco-agent devkit, throw-away"

_PSS: Final = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)


def certify(
    subject: str,
    key: PrivateKey,
    issuer: tuple[str, PrivateKey],
    *,
    ca: bool,
    extensions: Sequence[x509.ExtensionType] = (),
    digest: hashes.SHA256 | hashes.SHA384 | None = None,
) -> x509.Certificate:
    """A certificate, valid for :data:`LIFE` from yesterday.

    Args:
        subject: common name.
        key: whose certificate it is.
        issuer: common name and key of who signs; RSA keys sign with RSASSA-PSS, as AMD's do.
        ca: whether it may sign others.
        extensions: the vendor's own, not critical.
        digest: of the signature; SHA-384 by default.
    """
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer[0]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + LIFE)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    if isinstance(issuer[1], rsa.RSAPrivateKey):
        return builder.sign(issuer[1], hashes.SHA384(), rsa_padding=_PSS)
    return builder.sign(issuer[1], digest or hashes.SHA384())


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, THROW_AWAY),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, common),
        ]
    )


def extension(oid: str, value: bytes) -> x509.UnrecognizedExtension:
    """A vendor's extension with exactly these bytes as its value."""
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)


def der(certificate: x509.Certificate) -> bytes:
    """The certificate in DER."""
    return certificate.public_bytes(Encoding.DER)


def pem(*certificates: x509.Certificate) -> bytes:
    """The certificates in PEM, one after the other."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def pin(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo, 32 bytes, as ``Roots`` wants it."""
    info = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(info).digest()


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """X and Y of the public key, each as long as the curve's field."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def ecdsa(key: ec.EllipticCurvePrivateKey, data: bytes, digest: hashes.HashAlgorithm) -> tuple[int, int]:
    """A signature as its two numbers."""
    return decode_dss_signature(key.sign(data, ec.ECDSA(digest)))


# --- as much DER as vendors' extensions need --------------------------------------------------------


def tlv(tag: int, content: bytes) -> bytes:
    """One DER element; content of at most 65535 bytes."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    width = 1 if size < 0x100 else 2
    return bytes([tag, 0x80 | width]) + size.to_bytes(width, "big") + content


def integer(value: int) -> bytes:
    """A DER INTEGER, not negative: 128 and above take a leading zero byte."""
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def octets(value: bytes) -> bytes:
    """A DER OCTET STRING."""
    return tlv(0x04, value)


def sequence(*parts: bytes) -> bytes:
    """A DER SEQUENCE."""
    return tlv(0x30, b"".join(parts))


def oid(dotted: str) -> bytes:
    """A DER OBJECT IDENTIFIER."""
    first, second, *rest = (int(number) for number in dotted.split("."))
    content = bytearray([first * 40 + second])
    for number in rest:
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(number & 0x7F | 0x80)
        content += bytes(reversed(groups))
    return tlv(0x06, bytes(content))
