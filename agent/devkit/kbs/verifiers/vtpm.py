"""What the vTPM verifiers share: quote, PCRs, HCL report (attesters.md 5.4, 21.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agent.devkit.kbs.verifiers.appraisal import Expected, Finding, from_base64, refused, require
from agent.tee.evidence import hcl, tpm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric import rsa

    from agent.tee.evidence.hcl import HclReport

PCRS: Final = 24
VERSIONS: Final = (1, 2)
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
    values = tuple(from_hex(tee, "PCRs", each) for each in quote.pcrs[: PCRS + 1])
    if len(values) != PCRS or any(len(value) != 32 for value in values):
        raise refused(tee, "PCRs", "not 24 SHA-256 values")
    return values


def azure_quote(tee: str, quote: TpmQuote) -> Quoted:
    """The quote as Azure's attesters send it.

    Raises:
        MalformedError: cannot be decoded.
    """
    return Quoted(
        from_hex(tee, "TPM quote", quote.message),
        from_hex(tee, "TPM quote signature", quote.signature),
        pcr_values(tee, quote),
    )


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
        report: the HCL report.
        quoted: the TPM quote.
    """

    report: HclReport
    quoted: Quoted

    def finding(self, expected: Expected, hardware: dict[str, object]) -> Finding:
        """The claims, with those of the vTPM."""
        pcr8 = self.quoted.pcrs[tpm.INIT_DATA_PCR]
        return Finding(
            "cpu", hardware | {"tpm": self.quoted.claims()}, expected.report_data.hex(), pcr8.hex()
        )


def check_azure(
    expected: Expected, version: int, quote: TpmQuote, hcl_report: str, kind: hcl.ReportType
) -> Azure:
    """Everything but the hardware's part: steps 1 to 3, 5 and 8 of attesters.md 21.4.

    Args:
        expected: what it has to be bound to.
        version: of the evidence.
        quote: as sent.
        hcl_report: base64url.
        kind: report type the HCL report must have.

    Raises:
        MalformedError: one does not hold.
        AgentError: EVIDENCE_MALFORMED.
    """
    tee = expected.tee
    if version not in VERSIONS:
        raise refused(tee, "evidence version", f"{version}; 1 and 2 are taken")
    report = hcl.parse_hcl(from_base64(tee, "HCL report", hcl_report, url=True))
    if report.report_type is not kind:
        raise refused(tee, "HCL report", f"of {report.report_type.name}, {kind.name} belongs there")
    quoted = azure_quote(tee, quote)
    check_quote(expected, quoted, report.ak, expected.report_data)
    if version >= USER_DATA_SINCE:
        require(tee, [hcl.user_data_check(report, expected.report_data)])
    return Azure(report, quoted)


def check_variable_data(expected: Expected, azure: Azure, report_data: bytes, where: str) -> None:
    """The hardware vouches for the HCL report's JSON, so for the vTPM's key (step 4).

    Raises:
        MalformedError: it does not.
    """
    require(expected.tee, [hcl.variable_data_check(azure.report, report_data, where)])
