"""``az-tdx-vtpm`` (attesters.md 21.5), without Intel's collateral."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.devkit.kbs.verifiers import tdx, vtpm
from agent.tee.evidence import az_json
from agent.tee.evidence.hcl import ReportType

if TYPE_CHECKING:
    from agent.devkit.kbs.verifiers.appraisal import Expected, Finding
    from agent.tee.evidence.verdict import Roots


def verify(evidence: bytes, expected: Expected, roots: Roots) -> tuple[Finding, ...]:
    """See ``Verifier``."""
    azure = vtpm.check_azure(expected, az_json.decode(evidence, expected.tee), ReportType.TDX)
    quote, body = tdx.trusted_quote(expected.tee, azure.evidence.td_quote, roots)
    vtpm.check_variable_data(expected, azure, body.report_data, "TD quote")
    return (azure.finding(expected, tdx.claims(quote)),)
