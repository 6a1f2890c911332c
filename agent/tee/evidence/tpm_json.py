"""Evidence of a plain TPM as JSON (attesters.md 6)."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from agent.config import limits
from agent.tee.base import regularize
from agent.tee.evidence.reader import malformed
from agent.tee.evidence.tpm import parse_signature, verify_init_data, verify_quote

if TYPE_CHECKING:
    from agent.tee.evidence.verdict import Check

REPORT_DATA: Final = 32
"""Bytes of report data in the quote: a longer digest is cut, by verifiers too (attesters.md 20, row 15)."""

_WHAT: Final = "TPM evidence"


class _Quote(msgspec.Struct):
    signature: str
    message: str
    pcrs: list[str]


class _Evidence(msgspec.Struct):
    tpm_quote: _Quote
    ak_public: str


class TpmEvidence(msgspec.Struct, frozen=True):
    """What one evidence document holds.

    Attributes:
        message: TPMS_ATTEST.
        signature: TPMT_SIGNATURE.
        pcrs: values of PCR 0 to 23 of the SHA-256 bank.
        ak: SubjectPublicKeyInfo of the attestation key, DER. Nothing here vouches for it.
    """

    message: bytes
    signature: bytes
    pcrs: tuple[bytes, ...]
    ak: bytes


def key_info(key: RSAPublicKey) -> bytes:
    """SubjectPublicKeyInfo, DER."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def encode(evidence: TpmEvidence) -> bytes:
    """Compact JSON."""
    quote = _Quote(_b64(evidence.signature), _b64(evidence.message), [pcr.hex() for pcr in evidence.pcrs])
    return msgspec.json.encode(_Evidence(quote, _b64(evidence.ak)))


def decode(data: bytes) -> TpmEvidence:
    """Read evidence.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    if len(data) > limits.VTPM_EVIDENCE_MAX:
        raise malformed(_WHAT, f"{len(data)} bytes")
    try:
        document = msgspec.json.decode(data, type=_Evidence)
        return TpmEvidence(
            message=_plain(document.tpm_quote.message),
            signature=_plain(document.tpm_quote.signature),
            pcrs=tuple(binascii.unhexlify(pcr) for pcr in document.tpm_quote.pcrs),
            ak=_plain(document.ak_public),
        )
    except (msgspec.DecodeError, RecursionError, UnicodeError, ValueError):
        raise malformed(_WHAT, "not the JSON it should be") from None


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _plain(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def verify(evidence: TpmEvidence, report_data: bytes | None, init_data: bytes | None) -> tuple[Check, ...]:
    """Judge evidence (attesters.md 21.6). The key is the evidence's own: a policy has to know ``ak``.

    Args:
        evidence: decoded.
        report_data: expected; cut or padded to 32 bytes. None: it is only shown.
        init_data: digest of the init-data; None: PCR 8 is only shown.

    Raises:
        AgentError: EVIDENCE_MALFORMED, a structure inside cannot be read.
    """
    expected = None if report_data is None else regularize(report_data, REPORT_DATA)
    signature = parse_signature(evidence.signature)
    return (
        *verify_quote(evidence.message, signature, evidence.pcrs, _key(evidence.ak), expected),
        verify_init_data(evidence.pcrs, init_data),
    )


def _key(data: bytes) -> RSAPublicKey:
    try:
        key = load_der_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise malformed(_WHAT, "the attestation key is no SubjectPublicKeyInfo") from None
    if not isinstance(key, RSAPublicKey):
        raise malformed(_WHAT, "the attestation key is not RSA")
    return key
