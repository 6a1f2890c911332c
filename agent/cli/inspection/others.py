"""Arm CCA, IBM SE, Hygon CSV, AWS Nitro and sample evidence for people: shown, mostly not verified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.cli.inspection.document import Context, Document, Field, Table, flags
from agent.cli.inspection.members import b64, mapping, number, octets, string
from agent.tee.evidence import nitro_document
from agent.tee.evidence.cca import parse_cca
from agent.tee.evidence.reader import Reader
from agent.tee.evidence.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Mapping

_CSV_EXTENDED: Final = b"ATTESTATION_EXT\0"
_CSV_V3: Final = 3
_CSV_POLICY: Final = ("NODBG", "NOKS", "ES", "NOSEND", "DOMAIN", "CSV", "CSV3", "ASID_REUSE")
_CCA_CLAIMS: Final = {
    "10": "challenge",
    "256": "instance id",
    "265": "profile",
    "2395": "lifecycle",
    "2396": "implementation id",
    "2399": "software components",
    "2400": "verification service",
    "2401": "configuration",
    "2402": "hash",
}
"""Claims of the platform token (Arm RMM specification, A7.2.3.2)."""
_CCA_LIFECYCLES: Final = {
    0x00: "unknown",
    0x10: "assembly and test",
    0x20: "provisioning",
    0x30: "secured",
    0x40: "DEBUG outside of CCA's root of trust",
    0x50: "DEBUG of the root of trust, recoverable",
    0x60: "decommissioned",
}
"""The high byte of the lifecycle (the same place)."""


def cca_token(data: bytes, context: Context) -> Document:
    """A CCA token."""
    found = parse_cca(data)
    rows = tuple((index, value) for index, value in enumerate(found.extensible_measurements))
    claims = tuple((_CCA_CLAIMS.get(claim, claim), value) for claim, value in found.platform.items())
    return Document(
        kind="cca-token",
        title="Arm CCA token",
        fields=(
            Field("measurement (initial)", found.initial_measurement),
            Field("hash", found.hash_algorithm),
            Field("report data (challenge)", found.challenge),
            Field("init-data (personalization)", found.personalization),
            *_lifecycle(found.platform.get("2395", "")),
            Field("realm key", found.public_key),
            Field("realm key hash", found.public_key_hash_algorithm),
        ),
        checks=(
            Check("token signatures", None, "they need Arm's endorsements at the verifier"),
            *context.bindings(found.challenge, found.personalization),
        ),
        tables=(
            Table("extensible measurements", ("INDEX", "VALUE"), rows),
            Table("platform claims", ("CLAIM", "VALUE"), claims),
        ),
    )


def _lifecycle(claim: str) -> tuple[Field, ...]:
    if not claim.isdecimal() or len(claim) > 5:
        return ()
    name = _CCA_LIFECYCLES.get(int(claim) >> 8, "reserved")
    return (Field("platform lifecycle", f"{name} ({int(claim):#06x})", alarm=name != "secured"),)


def nitro(data: bytes, _context: Context) -> Document:
    """An attestation document of AWS Nitro."""
    found = nitro_document.parse_nitro(data)
    # An enclave in debug mode has zeros for its measurement.
    debug = 0 in found.pcrs and not any(found.pcrs[0])
    return Document(
        kind="nitro-document",
        title="AWS Nitro attestation document (for verifiers other than Trustee)",
        fields=(
            Field("measurement (PCR 0)", found.pcrs.get(0)),
            Field("debug", debug, alarm=debug),
            Field("report data (user data)", found.user_data),
            Field("nonce", found.nonce),
            Field("public key", found.public_key),
            Field("module", found.module_id),
            Field("hash", found.digest),
            Field("time (ms since 1970)", found.timestamp),
        ),
        checks=nitro_document.verify(found),
        tables=(Table("PCRs", ("PCR", "VALUE"), tuple(sorted(found.pcrs.items()))),),
    )


def cca(found: Mapping[str, object], context: Context) -> Document:
    """Evidence of ``cca``."""
    part = cca_token(octets(found.get("token"), "token"), context)
    return Document(kind="cca-evidence", title="evidence of cca", parts=(part,))


def se(found: Mapping[str, object], context: Context) -> Document:
    """Evidence of ``se``; the measurement is a MAC that only the verifier can check."""
    names = ("measurement", "cuid", "image_hdr_tags", "additional_data")
    user_data = b64(found, "user_data")
    return Document(
        kind="se-evidence",
        title="evidence of se (IBM Secure Execution)",
        fields=(
            *(Field(name.replace("_", " "), b64(found, name)) for name in names),
            Field("report data (user data)", user_data),
        ),
        checks=(
            Check("measurement", None, "its key is encrypted to the verifier"),
            *context.bindings(user_data, None),
        ),
    )


def csv(found: Mapping[str, object], context: Context) -> Document:
    """Evidence of ``csv``; the chain needs Hygon's certificates and SM2."""
    report = mapping(found.get("attestation_report"), "attestation_report")
    data = octets(report.get("data"), "data", 4096)
    extended = octets(report.get("magic"), "magic", 16) == _CSV_EXTENDED
    if not extended:
        data = _unmasked(data)
    reader = Reader(data, "CSV report")
    reader.skip(32)
    vm_id, vm_version = reader.take(16), reader.take(16)
    report_data, _, measure = reader.take(64), reader.take(16), reader.take(32)
    rtmrs = (
        tuple((index, data[208 + 32 * index : 240 + 32 * index]) for index in range(5)) if extended else ()
    )
    host_data = data[960:1024] if extended and number(report, "flags") == _CSV_V3 else None
    return Document(
        kind="csv-evidence",
        title=f"evidence of csv, report {'extended' if extended else 'version 1'}",
        fields=(
            Field("measurement", measure),
            Field("report data", report_data),
            *_csv_policy(reader.u32("policy")),
            Field("VM id", vm_id),
            Field("VM version", vm_version),
            *(() if host_data is None else (Field("init-data (host data)", host_data),)),
            Field("serial number", _serial(found)),
        ),
        checks=(
            Check("report signature", None, "it needs Hygon's certificates and SM2"),
            *context.bindings(report_data, None),
        ),
        tables=(Table("registers", ("RTMR", "VALUE"), rtmrs),) if rtmrs else (),
    )


def _csv_policy(policy: int) -> tuple[Field, ...]:
    bits = {name: bool(policy >> index & 1) for index, name in enumerate(_CSV_POLICY)}
    return (
        Field("DEBUG", not bits["NODBG"], alarm=not bits["NODBG"]),
        *flags("policy", bits),
        Field("policy value", f"{policy:#010x}"),
    )


def _serial(found: Mapping[str, object]) -> str:
    number = octets(found.get("serial_number"), "serial_number", 64)
    return number.rstrip(b"\0").decode("ascii", "backslashreplace")


def _unmasked(data: bytes) -> bytes:
    """Version 1 has its first 188 bytes XORed with the four of ``anonce`` (attesters.md 10)."""
    mask = data[188:192] * 47
    return bytes(a ^ b for a, b in zip(data[:188], mask, strict=True)) + data[188:]


def sample(found: Mapping[str, object], context: Context) -> Document:
    """Evidence of ``sample`` or ``sampledevice``."""
    report_data = b64(found, "report_data")
    return Document(
        kind="sample-evidence",
        title="sample evidence",
        fields=(
            Field("proves nothing", value=True, alarm=True),
            Field("SVN", string(found, "svn")),
            Field("report data", report_data),
        ),
        checks=context.bindings(report_data, None),
    )
