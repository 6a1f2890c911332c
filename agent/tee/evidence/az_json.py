"""Evidence of Azure's vTPMs as JSON (attesters.md 5.4): version 2 is written, versions 0 to 2 are read."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import limits
from agent.tee.evidence import certs
from agent.tee.evidence.hcl import ReportType, parse_hcl, user_data_check, variable_data_check
from agent.tee.evidence.quote import parse_quote
from agent.tee.evidence.reader import malformed
from agent.tee.evidence.tpm import verify_init_data, verify_quote

if TYPE_CHECKING:
    from agent.tee.evidence.verdict import Check

SNP: Final = "az-snp-vtpm"
TDX: Final = "az-tdx-vtpm"
VERSION: Final = 2

_WHAT: Final = "Azure evidence"
_KINDS: Final = {SNP: ReportType.SNP, TDX: ReportType.TDX}


class _Quote(msgspec.Struct):
    signature: str
    message: str
    pcrs: list[str]


class _Evidence(msgspec.Struct, omit_defaults=True):
    version: int
    tpm_quote: _Quote
    hcl_report: str
    vcek: str = ""
    td_quote: str = ""


class _OldQuote(msgspec.Struct):
    signature: list[int]
    message: list[int]
    pcrs: list[list[int]]


class _OldSnp(msgspec.Struct):
    quote: _OldQuote
    report: list[int]
    vcek: str


class _OldTdx(msgspec.Struct):
    tpm_quote: _OldQuote
    hcl_report: list[int]
    td_quote: list[int]


class _Version(msgspec.Struct):
    version: int = 0


class AzureEvidence(msgspec.Struct, frozen=True):
    """What one evidence document holds.

    Attributes:
        tee: ``az-snp-vtpm`` or ``az-tdx-vtpm``.
        message: TPMS_ATTEST.
        signature: raw RSA signature over it.
        pcrs: values of PCR 0 to 23 of the SHA-256 bank.
        hcl_report: as read from the vTPM.
        certificates: DER, the VCEK first; empty for TDX.
        td_quote: empty for SNP.
        version: 0, 1 or 2.
    """

    tee: str
    message: bytes
    signature: bytes
    pcrs: tuple[bytes, ...]
    hcl_report: bytes
    certificates: tuple[bytes, ...] = ()
    td_quote: bytes = b""
    version: int = VERSION


def encode(evidence: AzureEvidence) -> bytes:
    """Compact JSON in version 2."""
    quote = _Quote(evidence.signature.hex(), evidence.message.hex(), [pcr.hex() for pcr in evidence.pcrs])
    document = _Evidence(
        version=VERSION,
        tpm_quote=quote,
        hcl_report=_b64u(evidence.hcl_report),
        vcek=_b64u(evidence.certificates[0]) if evidence.certificates else "",
        td_quote=_b64u(evidence.td_quote),
    )
    return msgspec.json.encode(document)


def decode(data: bytes, tee: str = "") -> AzureEvidence:
    """Read evidence of either TEE in any version. Sizes and structures inside are for :func:`verify`.

    Args:
        data: JSON.
        tee: which TEE it is of, where that is known; members of the other are not looked at then.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    if len(data) > limits.VTPM_EVIDENCE_MAX:
        raise malformed(_WHAT, f"{len(data)} bytes")
    try:
        version = msgspec.json.decode(data, type=_Version).version
        if version == 0:
            return _oldest(data)
        if version not in {1, VERSION}:
            raise malformed(_WHAT, f"version {version}")
        return _current(msgspec.json.decode(data, type=_Evidence), tee)
    except (msgspec.DecodeError, RecursionError, UnicodeError, ValueError):
        # A ValidationError is a DecodeError; ValueError: hexadecimal, base64, or a number that is no byte.
        raise malformed(_WHAT, "not the JSON it should be") from None


def _current(document: _Evidence, tee: str) -> AzureEvidence:
    vcek = document.vcek if tee != TDX else ""
    td_quote = document.td_quote if tee != SNP else ""
    if bool(vcek) == bool(td_quote):
        raise malformed(_WHAT, "it needs one of vcek and td_quote")
    quote = document.tpm_quote
    return AzureEvidence(
        tee=SNP if vcek else TDX,
        message=binascii.unhexlify(quote.message),
        signature=binascii.unhexlify(quote.signature),
        pcrs=tuple(binascii.unhexlify(pcr) for pcr in quote.pcrs),
        hcl_report=_plain(document.hcl_report),
        certificates=(_plain(vcek),) if vcek else (),
        td_quote=_plain(td_quote),
        version=document.version,
    )


def _oldest(data: bytes) -> AzureEvidence:
    try:
        old = msgspec.json.decode(data, type=_OldSnp)
    except msgspec.ValidationError:
        tdx = msgspec.json.decode(data, type=_OldTdx)
        return AzureEvidence(
            TDX, *_old_quote(tdx.tpm_quote), bytes(tdx.hcl_report), td_quote=bytes(tdx.td_quote), version=0
        )
    chain = tuple(certs.der(each) for each in certs.load_pem_chain(old.vcek.encode()))
    return AzureEvidence(SNP, *_old_quote(old.quote), bytes(old.report), certificates=chain, version=0)


def _old_quote(quote: _OldQuote) -> tuple[bytes, bytes, tuple[bytes, ...]]:
    return bytes(quote.message), bytes(quote.signature), tuple(bytes(pcr) for pcr in quote.pcrs)


def _b64u(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def _plain(text: str) -> bytes:
    # Python's decoder takes both alphabets at once.
    if "+" in text or "/" in text:
        raise malformed(_WHAT, "base64 where base64url should be")
    return base64.b64decode(text, altchars=b"-_", validate=True)


def verify(evidence: AzureEvidence, report_data: bytes | None, init_data: bytes | None) -> tuple[Check, ...]:
    """Judge what the vTPM vouches for, and its binding to the hardware (attesters.md 21.4 and 21.5).

    The hardware's own proof is judged elsewhere: the SNP report of the HCL report with ``certificates`` by
    ``snp_chain``, the TD quote by ``quote_chain``.

    Args:
        evidence: decoded.
        report_data: expected, exactly; None: it is only shown.
        init_data: digest of the init-data; None: PCR 8 is only shown.

    Raises:
        AgentError: EVIDENCE_MALFORMED, a structure inside cannot be read.
    """
    hcl = parse_hcl(evidence.hcl_report)
    if hcl.report_type is not _KINDS[evidence.tee]:
        raise malformed(_WHAT, f"{evidence.tee} with a report of type {hcl.report_type.name}")
    checks = [
        *verify_quote(evidence.message, evidence.signature, evidence.pcrs, hcl.ak, report_data),
        variable_data_check(hcl, hcl.report_data, "hardware report"),
    ]
    if evidence.tee == TDX:
        # The TDREPORT proves nothing outside of its platform; the quote made from it does.
        checks.append(variable_data_check(hcl, parse_quote(evidence.td_quote).body.report_data, "TD quote"))
    if evidence.version >= VERSION:
        checks.append(user_data_check(hcl, report_data))
    checks.append(verify_init_data(evidence.pcrs, init_data))
    return tuple(checks)
