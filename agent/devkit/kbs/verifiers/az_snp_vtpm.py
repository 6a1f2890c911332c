"""``az-snp-vtpm`` (attesters.md 21.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.devkit.kbs.verifiers import snp, vtpm
from agent.devkit.kbs.verifiers.appraisal import Expected, Finding, base64_of, decoded, from_base64, require
from agent.tee.evidence import snp_chain
from agent.tee.evidence.hcl import ReportType
from agent.tee.evidence.snp import parse_report

if TYPE_CHECKING:
    from agent.tee.evidence.verdict import Roots


class _Evidence(msgspec.Struct, frozen=True):
    version: int
    tpm_quote: vtpm.TpmQuote
    hcl_report: str
    vcek: str


def verify(evidence: bytes, expected: Expected, roots: Roots) -> tuple[Finding, ...]:
    """See ``Verifier``. The VCEK is the evidence's; what lies between it and a root is in ``roots``."""
    parsed = decoded(expected.tee, evidence, _Evidence)
    azure = vtpm.check_azure(expected, parsed.version, parsed.tpm_quote, parsed.hcl_report, ReportType.SNP)
    report = parse_report(azure.report.hardware)
    vtpm.check_variable_data(expected, azure, report.report_data, "SNP report")
    snp.launched(expected.tee, report)
    vcek = from_base64(expected.tee, "VCEK", parsed.vcek, url=True)
    require(expected.tee, snp_chain.verify(report, [vcek], roots))
    hardware: dict[str, object] = {name: _text(value) for name, value in snp.claims(report).items()}
    hardware["measurement"] = base64_of(report.measurement)
    return (azure.finding(expected, hardware),)


def _text(value: object) -> str:
    """Azure's claims are strings: ``3``, ``true``."""
    return str(value).lower() if isinstance(value, bool) else str(value)
