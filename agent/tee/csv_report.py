"""Hygon CSV reports and PEK certificates, as bytes and as csv-rs writes them (attesters.md 10)."""

from __future__ import annotations

import hmac
from typing import Final

import msgspec

from agent.errors import AgentError, ErrorCode
from agent.tee.evidence.reader import Reader, malformed

PAGE: Final = 4096
REPORT_DATA: Final = 64
MNONCE: Final = 16
MAGIC: Final = b"ATTESTATION_EXT\0"
EXTENDED: Final = 1
"""``flags`` of a report with registers (V2)."""

PEK: Final = 2084
SERIAL: Final = 64

_RESERVED: Final = 32
_MAC: Final = 32
_SCRAMBLED: Final = 188
_SIGNER: Final = {False: 336, True: 1168}


class Firmware(msgspec.Struct, frozen=True):
    """``firmware``."""

    major: int
    minor: int


class Point(msgspec.Struct, frozen=True):
    """``key``: a curve number and two little-endian coordinates of 72 bytes."""

    g: int
    x: tuple[int, ...]
    y: tuple[int, ...]


class PublicKey(msgspec.Struct, frozen=True):
    """``pubkey``."""

    usage: int
    algo: int
    key: Point


class CertificateData(msgspec.Struct, frozen=True):
    """``data``: ``user_id`` has 254 bytes, ``sid`` 16, ``reserved2`` 608."""

    firmware: Firmware
    reserved1: int
    pubkey: PublicKey
    uid_size: int
    user_id: tuple[int, ...]
    sid: tuple[int, ...]
    reserved2: tuple[int, ...]


class CertificateBody(msgspec.Struct, frozen=True):
    """``body``."""

    ver: int
    data: CertificateData


class Signature(msgspec.Struct, frozen=True):
    """``signature``: both numbers little-endian, 72 bytes."""

    r: tuple[int, ...]
    s: tuple[int, ...]


class SignatureSlot(msgspec.Struct, frozen=True):
    """One of ``sigs``; ``_reserved`` has 368 bytes."""

    usage: int
    algo: int
    signature: Signature
    reserved: tuple[int, ...] = msgspec.field(name="_reserved")


class Certificate(msgspec.Struct, frozen=True):
    """A platform endorsement key certificate, 2084 bytes."""

    body: CertificateBody
    sigs: tuple[SignatureSlot, SignatureSlot]


class CsvReport(msgspec.Struct, frozen=True):
    """A report whose signer part is readable.

    Attributes:
        extended: V2, with registers.
        data: 4096 bytes as evidence carries them; in V1 the first 188 stay scrambled, as they were signed.
        report_data: 64 bytes.
        measure: launch digest, 32 bytes.
        serial: 64 bytes, zeros at the end.
        pek: its certificate.
    """

    extended: bool
    data: bytes
    report_data: bytes
    measure: bytes
    serial: bytes
    pek: Certificate


def parse_certificate(data: bytes) -> Certificate:
    """A PEK certificate of 2084 bytes.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    reader = Reader(data, "PEK certificate")
    version = reader.u32("ver")
    firmware = Firmware(reader.u8("major"), reader.u8("minor"))
    reserved = reader.u16("reserved1")
    usage, algorithm, curve = reader.u32("usage"), reader.u32("algo"), reader.u32("g")
    key = Point(curve, tuple(reader.take(72, "x")), tuple(reader.take(72, "y")))
    body = CertificateData(
        firmware=firmware,
        reserved1=reserved,
        pubkey=PublicKey(usage, algorithm, key),
        uid_size=reader.u16("uid_size"),
        user_id=tuple(reader.take(254, "user_id")),
        sid=tuple(reader.take(16, "sid")),
        reserved2=tuple(reader.take(608, "reserved2")),
    )
    found = Certificate(CertificateBody(version, body), (_slot(reader), _slot(reader)))
    if reader.left:
        raise reader.wrong(f"{reader.left} bytes behind it")
    return found


def _slot(reader: Reader) -> SignatureSlot:
    usage, algorithm = reader.u32("usage"), reader.u32("algo")
    signature = Signature(tuple(reader.take(72, "r")), tuple(reader.take(72, "s")))
    return SignatureSlot(usage, algorithm, signature, tuple(reader.take(368, "_reserved")))


def build_request(report_data: bytes, mnonce: bytes, *, extended: bool) -> bytes:
    """What the driver takes, 4096 bytes.

    Args:
        report_data: 64 bytes.
        mnonce: 16 random bytes; the answer's signer part is authenticated with them.
        extended: ask for V2.

    Raises:
        AgentError: NOT_SUPPORTED, there is no SM3.
    """
    asked = report_data + mnonce
    request = asked + sm3(asked)
    if extended:
        request += MAGIC + EXTENDED.to_bytes(4, "little")
    return request.ljust(PAGE, b"\0")


def parse_answer(data: bytes, mnonce: bytes, *, extended: bool) -> CsvReport:
    """The driver's answer to a request with ``mnonce``.

    Raises:
        AgentError: EVIDENCE_MALFORMED; EVIDENCE_FAILED, it is not the answer to this request; NOT_SUPPORTED,
            there is no SM3.
    """
    if len(data) != PAGE:
        raise malformed("CSV report", f"{len(data)} bytes")
    mask = b"\0\0\0\0" if extended else data[_SCRAMBLED : _SCRAMBLED + 4]
    start = _SIGNER[extended]
    end = start + PEK + SERIAL + _RESERVED
    signer, mac = data[start:end], data[end : end + _MAC]
    clear = _unmasked(data[:_SCRAMBLED], mask)
    # T-TEE-50: certificate and serial number are believed only with the processor's authentication code.
    if not hmac.compare_digest(clear[128:144], mnonce) or not hmac.compare_digest(_hmac(mnonce, signer), mac):
        raise AgentError(ErrorCode.EVIDENCE_FAILED, "csv: the report is not the answer to our request")
    pek = _unmasked(signer[:PEK], mask)
    serial = _unmasked(signer[PEK : PEK + SERIAL], mask)
    return CsvReport(
        extended=extended,
        data=data[:start] + pek + serial + bytes(_RESERVED) + data[end:],
        report_data=clear[64:128],
        measure=clear[144:176],
        serial=serial,
        pek=parse_certificate(pek),
    )


def _unmasked(data: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))


def sm3(data: bytes) -> bytes:
    """The SM3 digest, 32 bytes.

    Raises:
        AgentError: NOT_SUPPORTED, this Python's OpenSSL has none.
    """
    import hashlib  # noqa: PLC0415 - loads OpenSSL

    try:
        return hashlib.new("sm3", data).digest()
    except ValueError:
        raise _no_sm3() from None


def _hmac(key: bytes, data: bytes) -> bytes:
    try:
        return hmac.digest(key, data, "sm3")
    except ValueError:
        raise _no_sm3() from None


def _no_sm3() -> AgentError:
    return AgentError(ErrorCode.NOT_SUPPORTED, "csv: this Python's OpenSSL has no SM3, which reports need")
