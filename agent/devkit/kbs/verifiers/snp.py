"""``snp`` (attesters.md 21.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.devkit.kbs.verifiers.appraisal import (
    Expected,
    Finding,
    bound_init_data,
    bound_report_data,
    refused,
    require,
)
from agent.tee.evidence import snp_chain, snp_json
from agent.tee.evidence.snp import TAKEN_VERSIONS

if TYPE_CHECKING:
    from agent.tee.evidence.snp import SnpReport
    from agent.tee.evidence.verdict import Roots


def verify(evidence: bytes, expected: Expected, roots: Roots) -> tuple[Finding, ...]:
    """See ``Verifier``. The chain is looked for in the evidence and in ``roots.certificates``; no network."""
    report, certificates = snp_json.decode(evidence)
    launched(expected.tee, report)
    require(expected.tee, snp_chain.verify(report, [each.data for each in certificates], roots))
    bound_report_data(expected, report.report_data)
    bound_init_data(expected, report.host_data)
    return (Finding("cpu", claims(report), report.report_data.hex(), report.host_data.hex()),)


def launched(tee: str, report: SnpReport) -> None:
    """What Trustee wants of a report before it looks at signatures.

    Raises:
        MalformedError: another version, or not privilege level 0.
    """
    if report.version not in TAKEN_VERSIONS:
        raise refused(tee, "report version", f"{report.version}; 3, 4 and 5 are taken")
    if report.vmpl != 0:
        raise refused(tee, "vmpl", f"{report.vmpl}; only 0 is taken")


def claims(report: SnpReport) -> dict[str, object]:
    """Hardware claims, numbers and truths as such."""
    policy, platform = report.policy, report.platform_info
    tcb = report.reported_tcb
    return {
        "policy_abi_major": policy >> 8 & 0xFF,
        "policy_abi_minor": policy & 0xFF,
        "policy_smt_allowed": bool(policy >> 16 & 1),
        "policy_migrate_ma": bool(policy >> 18 & 1),
        "policy_debug_allowed": bool(policy >> 19 & 1),
        "policy_single_socket": bool(policy >> 20 & 1),
        "reported_tcb_bootloader": tcb.bootloader,
        "reported_tcb_tee": tcb.tee,
        "reported_tcb_snp": tcb.snp,
        "reported_tcb_microcode": tcb.microcode,
        "platform_tsme_enabled": bool(platform >> 1 & 1),
        "platform_smt_enabled": bool(platform & 1),
        "measurement": report.measurement.hex(),
        "chip_id": report.chip_id.hex(),
        "tcb_status": UNVERIFIED,
    }


UNVERIFIED = "unverified"
"""This verifier asks no vendor which TCB is current."""
