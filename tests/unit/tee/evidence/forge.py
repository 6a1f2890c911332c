"""Quotes, reports and chains made here, with keys of our own: what no recording holds."""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.errors import AgentError, ErrorCode
from agent.tee.evidence.certs import key_pin
from agent.tee.evidence.quote_chain import QUOTING_ENCLAVES
from agent.tee.evidence.verdict import Roots

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def attempt(call: Callable[[], T]) -> T | None:
    """What a parser gives, or None for EVIDENCE_MALFORMED; nothing else may escape it."""
    try:
        return call()
    except AgentError as error:
        if error.code is not ErrorCode.EVIDENCE_MALFORMED:
            raise
        return None


def roots(root: x509.Certificate, *extra: bytes) -> Roots:
    pin = frozenset({key_pin(root)})
    return Roots(amd=pin, intel=pin, nvidia=pin, certificates=extra)


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool | None,
    extension: tuple[str, bytes] | None = None,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(START + datetime.timedelta(days=3650))
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if extension:
        oid, value = extension
        builder = builder.add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False
        )
    return builder.sign(issuer_key, hashes.SHA256())


def raw_signature(key: ec.EllipticCurvePrivateKey, message: bytes, digest: hashes.HashAlgorithm) -> bytes:
    size = (key.key_size + 7) // 8
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(digest)))
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


# --- DER ---------------------------------------------------------------------------------------------
def tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def oid(dotted: str) -> bytes:
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    content = b""
    for arc in (40 * first + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        content += bytes(reversed(groups))
    return tlv(0x06, content)


def pck_extension(fmspc: bytes = bytes.fromhex("00a06d080000"), **changed: bytes) -> bytes:
    arc = "1.2.840.113741.1.13.1"

    def pair(name: str, value: bytes) -> bytes:
        return tlv(0x30, oid(name) + value)

    tcb = b"".join(pair(f"{arc}.2.{i}", tlv(2, bytes([i]))) for i in range(1, 17))
    tcb += pair(f"{arc}.2.17", tlv(2, b"\x0b")) + pair(f"{arc}.2.18", tlv(4, bytes(range(16))))
    fields = {
        "ppid": pair(f"{arc}.1", tlv(4, b"p" * 16)),
        "tcb": pair(f"{arc}.2", tlv(0x30, tcb)),
        "pce": pair(f"{arc}.3", tlv(4, b"\0\0")),
        "fmspc": pair(f"{arc}.4", tlv(4, fmspc)),
        "type": pair(f"{arc}.5", tlv(0x0A, b"\x01")),
        "instance": pair(f"{arc}.6", tlv(4, bytes(range(16)))),
    }
    return tlv(0x30, b"".join((fields | changed).values()))


# --- quotes ------------------------------------------------------------------------------------------
@dataclass
class Forge:
    """A root, a CA and a PCK; makes quotes that hold, but for what a test changes."""

    root_key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    ca_key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    pck_key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    ca_is_authority: bool | None = True
    extension: bytes | None = field(default_factory=pck_extension)
    auth: bytes = bytes(range(32))

    def __post_init__(self) -> None:
        self.root = certificate("root", self.root_key, "root", self.root_key, ca=True)
        self.ca = certificate("ca", self.ca_key, "root", self.root_key, ca=self.ca_is_authority)
        extension = None if self.extension is None else ("1.2.840.113741.1.13.1", self.extension)
        self.pck = certificate("pck", self.pck_key, "ca", self.ca_key, ca=False, extension=extension)

    @property
    def chain(self) -> bytes:
        return pem(self.pck, self.ca, self.root) + b"\0"

    def qe_report(self, tee_type: int, signer: bytes | None = None, *, debug: bool = False) -> bytes:
        known, product = QUOTING_ENCLAVES[tee_type]
        report = bytearray(384)
        report[48] = 0x11 | (2 if debug else 0)
        report[128:160] = signer or known
        report[256:258] = product.to_bytes(2, "little")
        report[320:352] = hashlib.sha256(point(self.key) + self.auth).digest()
        return bytes(report)

    def quote(
        self,
        body: bytes,
        *,
        version: int = 4,
        tee_type: int = 0x81,
        body_type: int | None = None,
        qe_report: bytes | None = None,
        kind: int = 5,
        chain: bytes | None = None,
    ) -> bytes:
        head = version.to_bytes(2, "little") + b"\x02\0" + tee_type.to_bytes(4, "little") + bytes(4)
        head += bytes.fromhex("939a7233f79c4ca9940a0db3957f0607") + bytes(20)
        if body_type is not None:
            head += body_type.to_bytes(2, "little") + len(body).to_bytes(4, "little")
        signed = head + body
        chain = self.chain if chain is None else chain
        qe_report = qe_report or self.qe_report(tee_type)
        inner = qe_report + raw_signature(self.pck_key, qe_report, hashes.SHA256())
        inner += len(self.auth).to_bytes(2, "little") + self.auth
        inner += kind.to_bytes(2, "little") + len(chain).to_bytes(4, "little") + chain
        if version > 3:
            inner = b"\x06\0" + len(inner).to_bytes(4, "little") + inner
        section = raw_signature(self.key, signed, hashes.SHA256()) + point(self.key) + inner
        return signed + len(section).to_bytes(4, "little") + section


# --- SPDM --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Gpu:
    """What a report says; ``report`` signs it."""

    key: ec.EllipticCurvePrivateKey
    nonce: bytes = bytes(range(32))
    measurements: tuple[tuple[int, bytes], ...] = ((1, b"\x11" * 48), (2, b"\x22" * 48))
    opaque: tuple[tuple[int, bytes], ...] = ((3, b"550.90.07\0"), (20, b"\x33" * 48))

    def report(self) -> bytes:
        record = b"".join(bytes([index, 1, 51, 0, 1, 48, 0]) + value for index, value in self.measurements)
        fields = b"".join(
            kind.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value
            for kind, value in self.opaque
        )
        whole = b"\x11\xe0\x01\xff" + self.nonce + b"\0"
        whole += (
            b"\x11\x60\0\0" + bytes([len(self.measurements)]) + len(record).to_bytes(3, "little") + record
        )
        whole += b"\x44" * 32 + len(fields).to_bytes(2, "little") + fields
        return whole + raw_signature(self.key, whole, hashes.SHA384())

    def changed(self, **values: object) -> Gpu:
        return replace(self, **values)  # type: ignore[arg-type]


def gpu_chain(
    key: ec.EllipticCurvePrivateKey, *, fwid: bytes | None = b"\x33" * 48, depth: int = 2
) -> tuple[bytes, x509.Certificate]:
    """PEM of a device's chain, leaf first, and its root."""
    issuer_key = ec.generate_private_key(ec.SECP384R1())
    root = certificate("device root", issuer_key, "device root", issuer_key, ca=True)
    chain, issuer = [root], "device root"
    for level in range(depth):
        lower = ec.generate_private_key(ec.SECP384R1())
        chain.insert(0, certificate(f"level {level}", lower, issuer, issuer_key, ca=True))
        issuer, issuer_key = f"level {level}", lower
    extension = None if fwid is None else ("2.23.133.5.4.1", tlv(0x30, tlv(0x04, fwid)))
    chain.insert(0, certificate("gpu", key, issuer, issuer_key, ca=False, extension=extension))
    return pem(*chain), root
