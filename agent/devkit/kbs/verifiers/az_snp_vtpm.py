"""``az-snp-vtpm`` (attesters.md 21.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.devkit.kbs.verifiers import snp, vtpm
from agent.devkit.kbs.verifiers.appraisal import Expected, Finding, base64_of, require
from agent.tee.evidence import az_json, snp_chain
from agent.tee.evidence.hcl import ReportType
from agent.tee.evidence.snp import parse_report

if TYPE_CHECKING:
    from agent.tee.evidence.verdict import Roots


def verify(evidence: bytes, expected: Expected, roots: Roots) -> tuple[Finding, ...]:
    """See ``Verifier``. The VCEK is the evidence's; what lies between it and a root is in ``roots``."""
    azure = vtpm.check_azure(expected, az_json.decode(evidence, expected.tee), ReportType.SNP)
    report = parse_report(azure.report.hardware)
    vtpm.check_variable_data(expected, azure, report.report_data, "SNP report")
    snp.launched(expected.tee, report)
    require(expected.tee, snp_chain.verify(report, azure.evidence.certificates[:1], roots))
    hardware: dict[str, object] = {name: _text(value) for name, value in snp.claims(report).items()}
    hardware["measurement"] = base64_of(report.measurement)
    return (azure.finding(expected, hardware),)


def _text(value: object) -> str:
    """Azure's claims are strings: ``3``, ``true``."""
    return str(value).lower() if isinstance(value, bool) else str(value)
