"""Azure's TDX guests with a vTPM (attesters.md 5): Collects, Binds and Measures of ``agent.tee.base``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.tee import imds
from agent.tee.az_vtpm import attest
from agent.tee.evidence.az_json import TDX, AzureEvidence, encode
from agent.tee.evidence.hcl import ReportType
from agent.tee.tpm2.registers import (
    ALGORITHM,
    DEFAULT_PCR,
    bind_init_data,
    extend_register,
    measurement_problem,
    read_register,
    register_of,
)

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.config.model import Attester as Settings

__all__ = [
    "ALGORITHM",
    "DEFAULT_PCR",
    "bind_init_data",
    "collect",
    "extend_register",
    "measurement_problem",
    "read_register",
    "register_of",
]


def collect(settings: Settings, report_data: bytes, deadline: Deadline) -> bytes:
    """Evidence in version 2. See ``agent.tee.base.Collects``.

    Raises:
        AgentError: as ``az_vtpm.attest``; QUOTE_SERVICE_UNREACHABLE.
    """
    attested = attest(settings, report_data, deadline, ReportType.TDX)
    quote = imds.td_quote(settings, attested.report.hardware, deadline)
    return encode(
        AzureEvidence(
            tee=TDX,
            message=attested.message,
            signature=attested.signature,
            pcrs=attested.pcrs,
            hcl_report=attested.hcl,
            td_quote=quote,
        )
    )
