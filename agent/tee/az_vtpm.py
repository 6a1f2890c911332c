"""What both Azure TEEs have in common: the vTPM's report, user data and quote (attesters.md 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.tee.evidence.hcl import HclReport, ReportType, parse_hcl, user_data_check, variable_data_check
from agent.tee.evidence.tpm import parse_signature, signed_by
from agent.tee.evidence.verdict import holds
from agent.tee.tpm2 import client, commands
from agent.tee.tpm2.device import Pauses, Tpm
from agent.tee.tpm2.quoting import quote_with_pcrs

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.config.model import Attester as Settings

REPORT_INDEX: Final = 0x01400001
USER_DATA_INDEX: Final = 0x01400002
AK_HANDLE: Final = 0x81000003

_POLL_FIRST: Final = 0.05
_POLL_LONGEST: Final = 0.5
_RESERVE: Final = 0.5
"""Seconds of the deadline that are kept for saying why the report did not come."""


class Attested(msgspec.Struct, frozen=True):
    """One report and one quote over the same report data.

    Attributes:
        hcl: the report as read, with what follows it in the index.
        report: the same, taken apart.
        message: TPMS_ATTEST.
        signature: raw RSA signature.
        pcrs: values of PCR 0 to 23.
    """

    hcl: bytes
    report: HclReport
    message: bytes
    signature: bytes
    pcrs: tuple[bytes, ...]


def attest(settings: Settings, report_data: bytes, deadline: Deadline, kind: ReportType) -> Attested:
    """Get a report that carries ``report_data`` as user data, and a quote with it as nonce.

    The TPM is held from the first command to the last: whoever writes user data in between would bind our
    report to theirs.

    Args:
        settings: where the TPM is.
        report_data: 1 to 64 bytes; used as it is.
        deadline: when the caller stops waiting.
        kind: what the report must be of.

    Raises:
        AgentError: INVALID_REQUEST (size), TEE_NOT_SUPPORTED (another kind, or too old for user data),
            EVIDENCE_TIMEOUT (the paravisor did not renew its report), QUOTE_PATH_MISSING (no index, no
            key), and as ``Tpm``.
    """
    if not 1 <= len(report_data) <= commands.MAX_QUALIFYING:
        raise AgentError(
            ErrorCode.INVALID_REQUEST, f"report data of {len(report_data)} bytes; a vTPM takes 1 to 64"
        )
    with Tpm(settings, deadline) as tpm:
        client.nv_store(tpm, USER_DATA_INDEX, report_data)
        hcl, report = _renewed(tpm, report_data, kind)
        message, marshalled, pcrs = quote_with_pcrs(tpm, AK_HANDLE, report_data, rsassa=False)
    signature = parse_signature(marshalled)
    # T-TEE-30: what no verifier would believe does not leave; here the reason can still be named.
    if not signed_by(message, signature, report.ak):
        raise AgentError(
            ErrorCode.EVIDENCE_FAILED,
            f"the key at 0x{AK_HANDLE:08x} is not the one that Azure's report names",
        )
    return Attested(hcl, report, message, signature, pcrs)


def _renewed(tpm: Tpm, report_data: bytes, kind: ReportType) -> tuple[bytes, HclReport]:
    """Read the report until it carries the report data.

    The paravisor makes a new one when a read begins at offset 0 and its last one is older than 2 s, so that
    the first read mostly brings it; upstream sleeps 3 s instead.
    """
    size = client.nv_size(tpm, REPORT_INDEX)
    if size is None:
        raise AgentError(ErrorCode.QUOTE_PATH_MISSING, f"the TPM has no Azure report at 0x{REPORT_INDEX:08x}")
    # T-TEE-29: the index says how much is read; no more than a report can have.
    if size > limits.HCL_MAX:
        raise AgentError(ErrorCode.EVIDENCE_FAILED, f"Azure's report has {size} bytes")
    pauses = Pauses(tpm.deadline.within(limits.HCL_WAIT), _POLL_FIRST, _POLL_LONGEST, reserve=_RESERVE)
    while True:
        hcl = client.nv_read(tpm, REPORT_INDEX, size)
        problem = ""
        try:
            report = parse_hcl(hcl)
        except AgentError as error:
            problem = error.detail
        else:
            _usable(report, kind)
            # One that is written while it is read does not fit together; it is read again.
            fits = variable_data_check(report, report.report_data, "hardware report")
            carries = user_data_check(report, report_data)
            if holds((fits, carries)):
                return hcl, report
            problem = (
                "its parts do not fit together" if not fits.passed else f"its user data is {carries.detail}"
            )
        if not pauses.pause():
            raise AgentError(ErrorCode.EVIDENCE_TIMEOUT, f"Azure's report was not renewed in time: {problem}")


def _usable(report: HclReport, kind: ReportType) -> None:
    if report.report_type is not kind:
        raise AgentError(
            ErrorCode.TEE_NOT_SUPPORTED,
            f"Azure's report is of type {report.report_type.name}, not {kind.name}",
        )
    if report.user_data is None:
        # Evidence of version 1 would do without; a guest does not choose the weaker form by itself.
        raise AgentError(
            ErrorCode.TEE_NOT_SUPPORTED, "this guest's paravisor is too old: its report carries no user data"
        )
