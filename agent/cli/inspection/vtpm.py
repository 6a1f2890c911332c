"""TPM quotes, Azure's HCL report and the evidence around them for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from agent.cli.inspection import amd, intel
from agent.cli.inspection.document import Context, Document, Field, Table, part
from agent.cli.inspection.members import b64, encode, listing, string, wrong
from agent.tee.evidence import az_json, tpm_json
from agent.tee.evidence.hcl import ReportType, parse_hcl, variable_data_check
from agent.tee.evidence.tpm import Attest, parse_attest, verify_pcrs
from agent.tee.evidence.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.tee.evidence.hcl import HclReport

_BANKS: Final = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}


def attest(data: bytes, _context: Context) -> Document:
    """A TPMS_ATTEST alone: whose it is, nothing in it says."""
    return Document(
        kind="tpm-attest",
        title="TPM quote (TPMS_ATTEST)",
        fields=_attest_fields(parse_attest(data)),
        checks=(_unsigned("signature and key are not in this file"),),
    )


def _unsigned(why: str) -> Check:
    return Check("TPM quote signature", None, why)


def _attest_fields(found: Attest) -> tuple[Field, ...]:
    banks = "; ".join(
        f"{_BANKS.get(bank, hex(bank))}: {','.join(map(str, sorted(pcrs)))}"
        for bank, pcrs in found.pcr_selection
    )
    return (
        Field("report data (extra data)", found.extra_data),
        Field("PCRs", banks),
        Field("PCR digest", found.pcr_digest),
        Field("signer", found.qualified_signer),
        Field("firmware", f"{found.firmware_version:#018x}"),
        Field("clock", f"{found.clock} ms, {found.reset_count} resets, {found.restart_count} restarts"),
    )


def _pcr_table(pcrs: Sequence[bytes]) -> Table:
    return Table("PCRs (sha256)", ("PCR", "VALUE"), tuple(enumerate(pcrs)))


def hcl(data: bytes, context: Context) -> Document:
    """An HCL report with the hardware report in it."""
    found = parse_hcl(data)
    return Document(
        kind="hcl-report",
        title=f"HCL report of {found.report_type.name}",
        fields=_hcl_fields(found),
        checks=(variable_data_check(found, found.report_data, "hardware report"),),
        # The hardware report's report data is the hash of the variable data, never what a caller asked for.
        parts=(part("hardware report", lambda: _hardware(found, context.expecting(None, None))),),
    )


def _hcl_fields(found: HclReport) -> tuple[Field, ...]:
    return (
        Field("user data", found.user_data),
        Field("variable data", found.variable_hash),
        Field("hash", found.hash_type),
        Field("AK", f"RSA, {found.ak.key_size} bits"),
    )


def _hardware(found: HclReport, context: Context) -> Document:
    read = amd.report if found.report_type is ReportType.SNP else intel.report
    return read(found.hardware, context)


def azure(found: Mapping[str, object], context: Context) -> Document:
    """Evidence of ``az-snp-vtpm`` or ``az-tdx-vtpm`` in any version."""
    evidence = az_json.decode(encode(found))
    report = parse_hcl(evidence.hcl_report)
    inner = context.expecting(None, None)
    if evidence.tee == az_json.TDX:
        parts: tuple[Document, ...] = (
            part("TD quote", lambda: intel.quote(evidence.td_quote, inner)),
            part("hardware report", lambda: _hardware(report, inner)),
        )
    else:
        parts = (
            part(
                "hardware report",
                lambda: amd.with_certificates(report.hardware, evidence.certificates, inner),
            ),
        )
    return Document(
        kind=f"{evidence.tee}-evidence",
        title=f"evidence of {evidence.tee}, version {evidence.version}",
        fields=(*_attest_fields(parse_attest(evidence.message)), *_hcl_fields(report)),
        checks=az_json.verify(evidence, context.report_data, context.init_data),
        tables=(_pcr_table(evidence.pcrs),),
        parts=parts,
    )


def tpm(found: Mapping[str, object], context: Context) -> Document:
    """Evidence of ``tpm``."""
    evidence = tpm_json.decode(encode(found))
    return Document(
        kind="tpm-evidence",
        title="evidence of tpm",
        fields=(*_attest_fields(parse_attest(evidence.message)), Field("AK", evidence.ak)),
        checks=(
            *tpm_json.verify(evidence, context.report_data, context.init_data),
            Check(
                "AK",
                None,
                "nothing in the evidence vouches for the key; a policy has to know it",
            ),
        ),
        tables=(_pcr_table(evidence.pcrs),),
    )


def bare_quote(found: Mapping[str, object], context: Context) -> Document:
    """A quote as JSON without a key: ``message``, ``signature``, ``pcrs``."""
    try:
        message = bytes.fromhex(string(found, "message"))
    except ValueError:
        message = b64(found, "message")
    try:
        pcrs = [bytes.fromhex(str(each)) for each in listing(found.get("pcrs"), "pcrs")]
    except ValueError:
        raise wrong("pcrs", "hexadecimal") from None
    whole = attest(message, context)
    quoted = parse_attest(message)
    checks = (
        _unsigned("the key is not in this file: for Azure it is in the HCL report"),
        *verify_pcrs(quoted, pcrs),
        *context.bindings(quoted.extra_data, None),
    )
    return replace(whole, checks=checks, tables=(_pcr_table(pcrs),))
