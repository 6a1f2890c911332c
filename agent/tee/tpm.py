"""A TPM without a TEE around it (attesters.md 6): Collects, Binds and Measures of ``agent.tee.base``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.errors import AgentError, ErrorCode
from agent.tee.base import regularize
from agent.tee.evidence.tpm import parse_signature, rsa_key, signed_by
from agent.tee.evidence.tpm_json import REPORT_DATA, TpmEvidence, encode, key_info
from agent.tee.tpm2 import client
from agent.tee.tpm2.device import Tpm
from agent.tee.tpm2.quoting import quote_with_pcrs
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
    """A quote over the first 32 bytes of report data, as the verifier expects (``agent.tee.base.Collects``).

    Raises:
        AgentError: QUOTE_PATH_MISSING (no TPM, no key), EVIDENCE_FAILED, and as ``Tpm``.
    """
    handle = settings.tpm_ak_handle
    nonce = regularize(report_data, REPORT_DATA)
    with Tpm(settings, deadline) as tpm:
        key = rsa_key(*client.rsa_public(tpm, handle), "attestation key")
        message, signature, pcrs = quote_with_pcrs(tpm, handle, nonce, rsassa=True)
    # T-TEE-30: what no verifier would believe does not leave.
    if not signed_by(message, parse_signature(signature), key):
        raise AgentError(
            ErrorCode.EVIDENCE_FAILED, f"the quote's signature is not of the key at 0x{handle:08x}"
        )
    return encode(TpmEvidence(message, signature, pcrs, key_info(key)))
