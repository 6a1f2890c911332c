"""What the vTPM verifiers share: quote, PCRs, HCL report (attesters.md 5.4, 21.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agent.devkit.kbs.verifiers.appraisal import Expected, Finding, refused, require
from agent.tee.evidence import hcl, tpm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric import rsa

    from agent.tee.evidence.az_json import AzureEvidence
    from agent.tee.evidence.hcl import HclReport

PCRS: Final = 24
USER_DATA_SINCE: Final = 2
"""Evidence version from which the HCL report has to carry the report data."""

_HEX_MAX: Final = 8192


class TpmQuote(msgspec.Struct, frozen=True):
    """``tpm_quote``: PCRs in hex; the others in hex on Azure, in base64 for a plain TPM."""

    signature: str
    message: str
    pcrs: list[str]


class Quoted(msgspec.Struct, frozen=True):
    """A TPM quote that is decoded, not verified.

    Attributes:
        message: TPMS_ATTEST.
        signature: raw RSA signature.
        pcrs: 24 values of 32 bytes.
    """

    message: bytes
    signature: bytes
    pcrs: tuple[bytes, ...]

    def claims(self) -> Mapping[str, str]:
        """``pcr00`` to ``pcr23`` in hex."""
        return {f"pcr{number:02}": value.hex() for number, value in enumerate(self.pcrs)}


def from_hex(tee: str, field: str, text: str) -> bytes:
    """A blob in hex.

    Raises:
        MalformedError: too long, or not hex.
    """
    if len(text) > _HEX_MAX or not text.isascii() or " " in text:
        raise refused(tee, field, "not hex, or too long")
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise refused(tee, field, "not hex") from None


def pcr_values(tee: str, quote: TpmQuote) -> tuple[bytes, ...]:
    """The PCRs of a quote.

    Raises:
        MalformedError: not 24 values of 32 bytes.
    """
    return whole_bank(tee, tuple(from_hex(tee, "PCRs", each) for each in quote.pcrs[: PCRS + 1]))


def whole_bank(tee: str, values: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """PCR 0 to 23 of the SHA-256 bank.

    Raises:
        MalformedError: not 24 values of 32 bytes.
    """
    if len(values) != PCRS or any(len(value) != 32 for value in values):
        raise refused(tee, "PCRs", "not 24 SHA-256 values")
    return values


def check_quote(expected: Expected, quoted: Quoted, key: rsa.RSAPublicKey, report_data: bytes) -> None:
    """Signature, nonce, PCR digest, and PCR 8 against the init-data that was sent, if any was.

    Args:
        expected: what it has to be bound to.
        quoted: the quote.
        key: the attestation key.
        report_data: the nonce, exactly: Trustee neither cuts nor pads it here.

    Raises:
        MalformedError: one does not hold.
        AgentError: EVIDENCE_MALFORMED.
    """
    require(expected.tee, tpm.verify_quote(quoted.message, quoted.signature, quoted.pcrs, key, report_data))
    if expected.init_digest is not None:
        require(expected.tee, [tpm.verify_init_data(quoted.pcrs, expected.init_digest)])


class Azure(msgspec.Struct, frozen=True):
    """Evidence of an Azure guest whose vTPM part holds.

    Attributes:
        evidence: as it came.
        report: the HCL report.
        quoted: the TPM quote.
    """

    evidence: AzureEvidence
    report: HclReport
    quoted: Quoted

    def finding(self, expected: Expected, hardware: dict[str, object]) -> Finding:
        """The claims, with those of the vTPM."""
        pcr8 = self.quoted.pcrs[tpm.INIT_DATA_PCR]
        return Finding(
            "cpu", hardware | {"tpm": self.quoted.claims()}, expected.report_data.hex(), pcr8.hex()
        )


def check_azure(expected: Expected, evidence: AzureEvidence, kind: hcl.ReportType) -> Azure:
    """Everything but the hardware's part: steps 1 to 3, 5 and 8 of attesters.md 21.4.

    Args:
        expected: what it has to be bound to.
        evidence: of version 0, 1 or 2.
        kind: report type the HCL report must have.

    Raises:
        MalformedError: one does not hold.
        AgentError: EVIDENCE_MALFORMED.
    """
    tee = expected.tee
    report = hcl.parse_hcl(evidence.hcl_report)
    if evidence.tee != tee or report.report_type is not kind:
        raise refused(tee, "HCL report", f"of {report.report_type.name}, {kind.name} belongs there")
    quoted = Quoted(evidence.message, evidence.signature, whole_bank(tee, evidence.pcrs))
    check_quote(expected, quoted, report.ak, expected.report_data)
    if evidence.version >= USER_DATA_SINCE:
        require(tee, [hcl.user_data_check(report, expected.report_data)])
    return Azure(evidence, report, quoted)


def check_variable_data(expected: Expected, azure: Azure, report_data: bytes, where: str) -> None:
    """The hardware vouches for the HCL report's JSON, so for the vTPM's key (step 4).

    Raises:
        MalformedError: it does not.
    """
    require(expected.tee, [hcl.variable_data_check(azure.report, report_data, where)])
