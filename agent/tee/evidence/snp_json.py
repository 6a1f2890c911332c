"""SEV-SNP evidence as Trustee reads and writes it: all bytes are arrays of integers (attesters.md 2.4)."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final

import msgspec

from agent.tee.evidence.reader import malformed
from agent.tee.evidence.snp import REPORT_SIZE, SIGNED_SIZE, SnpReport, Tcb, layout_is_turin, parse_report
from agent.tee.evidence.snp_table import KINDS, MAX_CERTIFICATES, Certificate

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_EVIDENCE: Final = 1024 * 1024
"""Bytes of evidence. A full certificate table of 16 KiB makes 70 KiB of JSON."""

_WHAT: Final = "SNP evidence"
_NAMES: Final = frozenset({*KINDS.values(), "Empty"})


class _Tcb(msgspec.Struct):
    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int | None = None


class _Version(msgspec.Struct):
    major: int
    minor: int
    build: int


class _Signature(msgspec.Struct):
    r: list[int]
    s: list[int]


class _Report(msgspec.Struct):
    version: int
    guest_svn: int
    policy: int
    family_id: list[int]
    image_id: list[int]
    vmpl: int
    sig_algo: int
    current_tcb: _Tcb
    plat_info: int
    key_info: int
    report_data: list[int]
    measurement: list[int]
    host_data: list[int]
    id_key_digest: list[int]
    author_key_digest: list[int]
    report_id: list[int]
    report_id_ma: list[int]
    reported_tcb: _Tcb
    chip_id: list[int]
    committed_tcb: _Tcb
    current: _Version
    committed: _Version
    launch_tcb: _Tcb
    signature: _Signature
    cpuid_fam_id: int | None = None
    cpuid_mod_id: int | None = None
    cpuid_step: int | None = None
    # Agents built before version 5 of the report leave both out.
    launch_mit_vector: int | None = None
    current_mit_vector: int | None = None


class _Other(msgspec.Struct):
    other: str = msgspec.field(name="OTHER")


class _Entry(msgspec.Struct):
    cert_type: str | _Other
    data: list[int]


class _Evidence(msgspec.Struct):
    attestation_report: _Report
    cert_chain: list[_Entry] | None = None


def encode(report: SnpReport, certificates: Sequence[Certificate] | None) -> bytes:
    """The evidence, compact JSON.

    Args:
        report: a parsed report; its reserved bytes are not part of the JSON, see :func:`survives`.
        certificates: in the order of :func:`agent.tee.evidence.snp_table.for_verifier`. None and an empty
            table are both ``null``: the verifier refuses a chain without the signing key, but fetches the key
            itself when there is no chain.
    """
    chain = [_Entry(_cert_type(each.kind), list(each.data)) for each in certificates or ()]
    return msgspec.json.encode(_Evidence(_form(report), chain or None))


def decode(evidence: bytes) -> tuple[SnpReport, tuple[Certificate, ...]]:
    """Evidence as the verifier sees it: the report is rebuilt with zeros for reserved bytes.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    # T-TEE-13: every byte of the JSON can become eight in a list.
    if len(evidence) > MAX_EVIDENCE:
        raise malformed(_WHAT, f"{len(evidence)} bytes")
    try:
        form = msgspec.json.decode(evidence, type=_Evidence)
    except (UnicodeDecodeError, RecursionError):
        raise malformed(_WHAT, "not JSON") from None
    except msgspec.MsgspecError as error:
        raise malformed(_WHAT, str(error)) from None
    entries = form.cert_chain or []
    if len(entries) > MAX_CERTIFICATES:
        raise malformed(_WHAT, f"{len(entries)} certificates")
    chain = tuple(Certificate(_kind(each.cert_type), _octets(each.data, "data")) for each in entries)
    return parse_report(_rebuild(form.attestation_report)), chain


def survives(report: SnpReport) -> bool:
    """Whether the signed part comes back from JSON as it was.

    If not, the firmware set a byte that was reserved when the wire format was made, and no verifier of it can
    check the signature (attesters.md 2.4).
    """
    return _rebuild(_form(report))[:SIGNED_SIZE] == report.signed


def _cert_type(kind: str) -> str | _Other:
    return kind if kind in _NAMES else _Other(kind)


def _kind(cert_type: str | _Other) -> str:
    if isinstance(cert_type, str):
        if cert_type not in _NAMES:
            raise malformed(_WHAT, "cert_type is none of " + ", ".join(sorted(_NAMES)))
        return cert_type
    try:
        identity = uuid.UUID(cert_type.other)
    except ValueError:
        raise malformed(_WHAT, "cert_type OTHER is no UUID") from None
    return KINDS.get(identity, str(identity))


def _tcb_form(tcb: Tcb) -> _Tcb:
    return _Tcb(tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode, tcb.fmc)


def _form(report: SnpReport) -> _Report:
    family, model, stepping = report.cpuid or (None, None, None)
    return _Report(
        version=report.version,
        guest_svn=report.guest_svn,
        policy=report.policy,
        family_id=list(report.family_id),
        image_id=list(report.image_id),
        vmpl=report.vmpl,
        sig_algo=report.signature_algorithm,
        current_tcb=_tcb_form(report.current_tcb),
        plat_info=report.platform_info,
        key_info=report.key_info,
        report_data=list(report.report_data),
        measurement=list(report.measurement),
        host_data=list(report.host_data),
        id_key_digest=list(report.id_key_digest),
        author_key_digest=list(report.author_key_digest),
        report_id=list(report.report_id),
        report_id_ma=list(report.report_id_ma),
        reported_tcb=_tcb_form(report.reported_tcb),
        cpuid_fam_id=family,
        cpuid_mod_id=model,
        cpuid_step=stepping,
        chip_id=list(report.chip_id),
        committed_tcb=_tcb_form(report.committed_tcb),
        current=_Version(*report.current),
        committed=_Version(*report.committed),
        launch_tcb=_tcb_form(report.launch_tcb),
        launch_mit_vector=report.launch_mit_vector,
        current_mit_vector=report.current_mit_vector,
        signature=_Signature(list(report.signature_r), list(report.signature_s)),
    )


def _rebuild(form: _Report) -> bytes:
    """The 1184 bytes, as the verifier makes them."""
    chip_id = _octets(form.chip_id, "chip_id", 64)
    cpuid = _cpuid(form) if form.version >= 3 else None
    turin = layout_is_turin(form.version, cpuid, chip_id)
    parts = [
        _number(form.version, 4, "version"),
        _number(form.guest_svn, 4, "guest_svn"),
        _number(form.policy, 8, "policy"),
        _octets(form.family_id, "family_id", 16),
        _octets(form.image_id, "image_id", 16),
        _number(form.vmpl, 4, "vmpl"),
        _number(form.sig_algo, 4, "sig_algo"),
        _levels(form.current_tcb, turin=turin),
        _number(form.plat_info, 8, "plat_info"),
        _number(form.key_info, 4, "key_info"),
        bytes(4),
        _octets(form.report_data, "report_data", 64),
        _octets(form.measurement, "measurement", 48),
        _octets(form.host_data, "host_data", 32),
        _octets(form.id_key_digest, "id_key_digest", 48),
        _octets(form.author_key_digest, "author_key_digest", 48),
        _octets(form.report_id, "report_id", 32),
        _octets(form.report_id_ma, "report_id_ma", 32),
        _levels(form.reported_tcb, turin=turin),
        bytes(cpuid or 3),
        bytes(21),
        chip_id,
        _levels(form.committed_tcb, turin=turin),
        _firmware(form.current, "current"),
        _firmware(form.committed, "committed"),
        _levels(form.launch_tcb, turin=turin),
        _vectors(form),
        bytes(152),
        _octets(form.signature.r, "r", 72),
        _octets(form.signature.s, "s", 72),
    ]
    return b"".join(parts).ljust(REPORT_SIZE, b"\0")


def _cpuid(form: _Report) -> tuple[int, int, int]:
    family, model, stepping = form.cpuid_fam_id, form.cpuid_mod_id, form.cpuid_step
    if family is None or model is None or stepping is None:
        raise malformed(_WHAT, "cpuid_fam_id, cpuid_mod_id or cpuid_step is missing")
    return _byte(family, "cpuid_fam_id"), _byte(model, "cpuid_mod_id"), _byte(stepping, "cpuid_step")


def _vectors(form: _Report) -> bytes:
    if form.version < 5:
        return bytes(16)
    launch = _number(form.launch_mit_vector or 0, 8, "launch_mit_vector")
    return launch + _number(form.current_mit_vector or 0, 8, "current_mit_vector")


def _levels(form: _Tcb, *, turin: bool) -> bytes:
    bootloader, tee = _byte(form.bootloader, "bootloader"), _byte(form.tee, "tee")
    snp, microcode = _byte(form.snp, "snp"), _byte(form.microcode, "microcode")
    return Tcb(bootloader, tee, snp, microcode, _byte(form.fmc or 0, "fmc")).pack(turin=turin)


def _firmware(form: _Version, field: str) -> bytes:
    return bytes([_byte(form.build, field), _byte(form.minor, field), _byte(form.major, field), 0])


def _byte(value: int, field: str) -> int:
    if not 0 <= value <= 0xFF:
        raise malformed(_WHAT, f"{field} is no byte")
    return value


def _number(value: int, size: int, field: str) -> bytes:
    try:
        return value.to_bytes(size, "little")
    except OverflowError:
        raise malformed(_WHAT, f"{field} does not fit {size} bytes") from None


def _octets(values: list[int], field: str, size: int | None = None) -> bytes:
    if size is not None and len(values) != size:
        raise malformed(_WHAT, f"{field} has {len(values)} items, {size} belong there")
    try:
        return bytes(values)
    except ValueError:
        raise malformed(_WHAT, f"{field} holds an item that is no byte") from None
