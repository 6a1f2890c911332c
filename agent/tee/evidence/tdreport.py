"""TDREPORT, 1024 bytes, TDX 1.0 and 1.5 (attesters.md 18.2; Intel TDX module ABI)."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from agent.tee.evidence.quote import td_flags
from agent.tee.evidence.reader import Reader
from agent.tee.evidence.verdict import Check

SIZE: Final = 1024
TYPE: Final = 0x81
_TCB_INFO: Final = slice(256, 256 + 239)
_TD_INFO: Final = slice(512, 512 + 512)


class TdReport(msgspec.Struct, frozen=True):
    """A parsed TDREPORT. Its MAC can be checked on the machine that made it only.

    Attributes:
        raw: all 1024 bytes.
        subtype: second byte of the type.
        version: 0 for TDX 1.0, 1 for 1.5.
        cpusvn: 16 bytes.
        tee_tcb_info_hash: 48 bytes, SHA-384 of TEE_TCB_INFO.
        tee_info_hash: 48 bytes, SHA-384 of TDINFO.
        report_data: 64 bytes.
        mac: 32 bytes.
        valid: 8 bytes, which fields of TEE_TCB_INFO are there.
        tee_tcb_svn: 16 bytes.
        mrseam: 48 bytes.
        mrsignerseam: 48 bytes.
        seam_attributes: 8 bytes.
        tee_tcb_svn2: 16 bytes; None in TDX 1.0.
        td_attributes: 8 bytes.
        xfam: 8 bytes.
        mrtd: 48 bytes.
        mrconfigid: 48 bytes.
        mrowner: 48 bytes.
        mrownerconfig: 48 bytes.
        rtmrs: four times 48 bytes.
        servtd_hash: 48 bytes.
    """

    raw: bytes
    subtype: int
    version: int
    cpusvn: bytes
    tee_tcb_info_hash: bytes
    tee_info_hash: bytes
    report_data: bytes
    mac: bytes
    valid: bytes
    tee_tcb_svn: bytes
    mrseam: bytes
    mrsignerseam: bytes
    seam_attributes: bytes
    tee_tcb_svn2: bytes | None
    td_attributes: bytes
    xfam: bytes
    mrtd: bytes
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    servtd_hash: bytes

    @property
    def debug(self) -> bool:
        """Whether the host can read this TD's memory."""
        return td_flags(self.td_attributes)["debug"]


def parse_tdreport(data: bytes) -> TdReport:
    """A TDREPORT of exactly 1024 bytes.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    mac, tcb, info = (Reader(data[part], "TDREPORT") for part in (slice(256), _TCB_INFO, _TD_INFO))
    if len(data) != SIZE:
        raise mac.wrong(f"{len(data)} bytes instead of {SIZE}")
    kind, subtype, version, last = mac.take(4, "type")
    if kind != TYPE or version not in {0, 1} or last:
        raise mac.wrong(f"type {data[:4].hex()}; 81 00 and version 00 or 01 belong there")
    mac.skip(12)
    cpusvn, tcb_hash, info_hash, report_data = mac.take(16), mac.take(48), mac.take(48), mac.take(64)
    mac.skip(32)
    return TdReport(
        raw=bytes(data),
        subtype=subtype,
        version=version,
        cpusvn=cpusvn,
        tee_tcb_info_hash=tcb_hash,
        tee_info_hash=info_hash,
        report_data=report_data,
        mac=mac.take(32),
        valid=tcb.take(8),
        tee_tcb_svn=tcb.take(16),
        mrseam=tcb.take(48),
        mrsignerseam=tcb.take(48),
        seam_attributes=tcb.take(8),
        tee_tcb_svn2=tcb.take(16) if version else None,
        td_attributes=info.take(8),
        xfam=info.take(8),
        mrtd=info.take(48),
        mrconfigid=info.take(48),
        mrowner=info.take(48),
        mrownerconfig=info.take(48),
        rtmrs=(info.take(48), info.take(48), info.take(48), info.take(48)),
        servtd_hash=info.take(48),
    )


def verify(report: TdReport) -> tuple[Check, ...]:
    """Both inner hashes. They show that the report was not damaged; the MAC says who made it."""
    tcb = hashlib.sha384(report.raw[_TCB_INFO]).digest() == report.tee_tcb_info_hash
    info = hashlib.sha384(report.raw[_TD_INFO]).digest() == report.tee_info_hash
    return (
        Check("TEE_TCB_INFO hash", tcb, "SHA-384 of 239 bytes" if tcb else "another SHA-384"),
        Check("TDINFO hash", info, "SHA-384 of 512 bytes" if info else "another SHA-384"),
        Check("MAC", None, "only the machine that made the report can check it"),
    )
