"""``az-tdx-vtpm`` (attesters.md 21.5), without Intel's collateral."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.devkit.kbs.verifiers import tdx, vtpm
from agent.devkit.kbs.verifiers.appraisal import Expected, Finding, decoded, from_base64
from agent.tee.evidence.hcl import ReportType

if TYPE_CHECKING:
    from agent.tee.evidence.verdict import Roots


class _Evidence(msgspec.Struct, frozen=True):
    version: int
    tpm_quote: vtpm.TpmQuote
    hcl_report: str
    td_quote: str


def verify(evidence: bytes, expected: Expected, roots: Roots) -> tuple[Finding, ...]:
    """See ``Verifier``."""
    parsed = decoded(expected.tee, evidence, _Evidence)
    azure = vtpm.check_azure(expected, parsed.version, parsed.tpm_quote, parsed.hcl_report, ReportType.TDX)
    data = from_base64(expected.tee, "TD quote", parsed.td_quote, url=True)
    quote, body = tdx.trusted_quote(expected.tee, data, roots)
    vtpm.check_variable_data(expected, azure, body.report_data, "TD quote")
    return (azure.finding(expected, tdx.claims(quote)),)
