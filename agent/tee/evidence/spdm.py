"""Reports of NVIDIA GPUs and switches: an SPDM exchange (DMTF DSP0274 1.1; attesters.md 12, 21.6).

A report is the request GET_MEASUREMENTS (37 bytes, with the verifier's nonce) followed by the response
MEASUREMENTS, whose signature covers both.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agent.errors import AgentError
from agent.tee.evidence import certs
from agent.tee.evidence.reader import Reader
from agent.tee.evidence.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.tee.evidence.verdict import Roots

NONCE_SIZE: Final = 32
SIGNATURE_SIZE: Final = 96
MAX_SIZE: Final = 64 * 1024
"""Bytes of a report; the driver's buffer has 8 KiB."""

TCB_INFO: Final = x509.ObjectIdentifier("2.23.133.5.4.1")
"""TCG DICE TcbInfo of a device certificate; it ends with the firmware's digest."""

_VERSION: Final = 0x11
_GET_MEASUREMENTS: Final = 0xE0
_MEASUREMENTS: Final = 0x60
_DMTF: Final = 1
_FWID: Final = 20
_FWID_SIZE: Final = 48

OPAQUE_NAMES: Final = {
    1: "cert_issuer_name",
    2: "cert_authority_key_identifier",
    3: "driver_version",
    4: "gpu_info",
    5: "sku",
    6: "vbios_version",
    7: "manufacturer_id",
    8: "tamper_detection",
    9: "smc",
    10: "vpr",
    11: "nvdec0_status",
    12: "measurement_counts",
    13: "cpr_info",
    14: "board_id",
    15: "chip_sku",
    16: "chip_sku_mod",
    17: "project",
    18: "project_sku",
    19: "project_sku_mod",
    20: "fwid",
    21: "protected_pcie_status",
    22: "switch_pdi",
    23: "floorswept_ports",
    24: "position_id",
    25: "lock_switch_status",
    32: "gpu_link_conn",
}
"""NVIDIA's opaque data by type."""


class Measurement(msgspec.Struct, frozen=True):
    """One measurement block in DMTF form.

    Attributes:
        index: 1 to 254.
        kind: DMTF value type; bit 7 says that ``value`` is raw and no digest.
        value: 48 bytes for SHA-384.
    """

    index: int
    kind: int
    value: bytes


class SpdmReport(msgspec.Struct, frozen=True):
    """A parsed report.

    Attributes:
        nonce: 32 bytes, the verifier's, from the request.
        slot: of the certificate that signs.
        measurements: in the report's order.
        responder_nonce: 32 bytes, the device's own.
        opaque: type and value of NVIDIA's fields, in their order; see OPAQUE_NAMES.
        signed: the bytes under the signature.
        signature: 96 bytes, r and s big-endian, P-384 with SHA-384.
    """

    nonce: bytes
    slot: int
    measurements: tuple[Measurement, ...]
    responder_nonce: bytes
    opaque: tuple[tuple[int, bytes], ...]
    signed: bytes
    signature: bytes

    @property
    def fwid(self) -> bytes | None:
        """The firmware's digest, 48 bytes; None when the report has none."""
        return next((value for kind, value in self.opaque if kind == _FWID), None)

    def text(self, name: str) -> str | None:
        """An opaque field by its name that is text, e.g. ``driver_version``; None when it is not there."""
        found = next((value for kind, value in self.opaque if OPAQUE_NAMES.get(kind) == name), None)
        return None if found is None else found.split(b"\0")[0].decode("ascii", "replace")


def parse(data: bytes) -> SpdmReport:
    """A report. Bytes behind the signature are a buffer's rest and left out: nothing vouches for them.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    reader = Reader(data, "SPDM report")
    if len(data) > MAX_SIZE:
        raise reader.wrong(f"{len(data)} bytes, more than {MAX_SIZE}")
    nonce, slot = _request(reader)
    version, code = reader.u8("version"), reader.u8("code")
    if (version, code) != (_VERSION, _MEASUREMENTS):
        raise reader.wrong(f"response {version:#04x} {code:#04x}; 0x11 0x60 (MEASUREMENTS) belongs there")
    reader.skip(2)
    count = reader.u8("number of blocks")
    record = reader.take(int.from_bytes(reader.take(3, "record size"), "little"), "measurement record")
    responder_nonce = reader.take(NONCE_SIZE, "nonce")
    opaque = reader.take(reader.u16("opaque size"), "opaque data")
    signed = bytes(data[: reader.at])
    return SpdmReport(
        nonce=nonce,
        slot=slot,
        measurements=_measurements(record, count),
        responder_nonce=responder_nonce,
        opaque=_opaque(opaque),
        signed=signed,
        signature=reader.take(SIGNATURE_SIZE, "signature"),
    )


def _request(reader: Reader) -> tuple[bytes, int]:
    version, code = reader.u8("version"), reader.u8("code")
    if (version, code) != (_VERSION, _GET_MEASUREMENTS):
        raise reader.wrong(f"request {version:#04x} {code:#04x}; 0x11 0xe0 (GET_MEASUREMENTS) belongs there")
    if not reader.u8("attributes") & 1:
        raise reader.wrong("the request asks for no signature")
    reader.skip(1)
    return reader.take(NONCE_SIZE, "nonce"), reader.u8("slot") & 0x0F


def _measurements(record: bytes, count: int) -> tuple[Measurement, ...]:
    reader, found, seen = Reader(record, "SPDM measurement record"), [], set()
    while reader.left:
        index, specification = reader.u8("index"), reader.u8("specification")
        block = Reader(reader.take(reader.u16("block size"), "block"), "SPDM measurement")
        if specification != _DMTF:
            raise reader.wrong(f"block {index} of specification {specification}; 1 (DMTF) is known")
        kind = block.u8("type")
        value = block.take(block.u16("size"), "value")
        # T-TEE-17: two values for one index, and nobody could say which of them was judged.
        if block.left or index in seen:
            raise reader.wrong(f"block {index} is there twice or has a wrong size")
        seen.add(index)
        found.append(Measurement(index, kind, value))
    if len(found) != count:
        raise reader.wrong(f"{len(found)} blocks where {count} are announced")
    return tuple(found)


def _opaque(data: bytes) -> tuple[tuple[int, bytes], ...]:
    reader = Reader(data, "SPDM opaque data")
    found: dict[int, bytes] = {}
    while reader.left:
        kind = reader.u16("type")
        value = reader.take(reader.u16("size"), "field")
        if kind in found:
            raise reader.wrong(f"field {kind} is there twice")
        found[kind] = value
    return tuple(found.items())


def verify(
    report: SpdmReport, chain_pem: bytes, roots: Roots, nonce: bytes | None = None
) -> tuple[Check, ...]:
    """Signature, certificate chain, firmware and nonce, each as one check.

    Args:
        report: what :func:`parse` gave.
        chain_pem: the device's certificates, leaf first; empty: nothing can be said about them.
        roots: ``nvidia`` is used.
        nonce: 32 bytes the request must carry; None: that is not checked, and no check says it was.

    Returns:
        ``report signature``, ``device chain``, ``FWID`` and, with a nonce, ``nonce``.
    """
    checks: list[Check] = []
    try:
        chain = certs.load_pem_chain(chain_pem) if chain_pem else ()
    except AgentError as error:
        chain, checks = (), _unknown(error.detail, passed=False)
    if chain:
        checks = [
            _signature(report, chain[0]),
            _chain(chain, roots),
            _fwid(report, chain[0]),
        ]
    elif not checks:
        checks = _unknown("the device's certificates are not given", passed=None)
    if nonce is not None:
        passed = hmac.compare_digest(nonce, report.nonce)
        checks.append(Check("nonce", passed, "as expected" if passed else "of another request"))
    return tuple(checks)


def _unknown(why: str, *, passed: bool | None) -> list[Check]:
    return [Check(name, passed, why) for name in ("report signature", "device chain", "FWID")]


def _signature(report: SpdmReport, leaf: x509.Certificate) -> Check:
    passed = certs.signed_by(
        leaf.public_key(), report.signature, report.signed, ec.SECP384R1, hashes.SHA384()
    )
    return Check("report signature", passed, f"{'by' if passed else 'not by'} {certs.name(leaf)}")


def _chain(chain: Sequence[x509.Certificate], roots: Roots) -> Check:
    found = certs.path(chain[0], [*chain[1:], *map(certs.load_der, roots.certificates)], roots.nvidia)
    return Check(
        "device chain",
        found is not None,
        " < ".join(map(certs.name, found)) if found else "does not end at an accepted root",
    )


def _fwid(report: SpdmReport, leaf: x509.Certificate) -> Check:
    """Whether the firmware that answered is the one the certificate was issued to (its last 48 bytes)."""
    name = "FWID"
    try:
        extension = leaf.extensions.get_extension_for_oid(TCB_INFO).value
    except x509.ExtensionNotFound:
        extension = None
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return Check(name, passed=False, detail="the certificate's extensions cannot be read")
    if report.fwid is None:
        return Check(name, passed=None, detail="the report has none")
    if not isinstance(extension, x509.UnrecognizedExtension) or len(extension.value) < _FWID_SIZE:
        return Check(name, passed=False, detail="the certificate has none")
    passed = hmac.compare_digest(extension.value[-_FWID_SIZE:], report.fwid)
    return Check(name, passed, report.fwid.hex() if passed else "the certificate is of another firmware")
