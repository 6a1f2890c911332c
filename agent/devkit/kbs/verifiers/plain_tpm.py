"""``tpm`` (attesters.md 21.6): the key comes with the evidence, so a policy has to know ``ak_public``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from agent.devkit.kbs.verifiers import vtpm
from agent.devkit.kbs.verifiers.appraisal import Expected, Finding, decoded, from_base64, refused
from agent.tee.base import regularize
from agent.tee.evidence import tpm

if TYPE_CHECKING:
    from agent.tee.evidence.verdict import Roots

_NONCE: Final = 32


class _Evidence(msgspec.Struct, frozen=True):
    tpm_quote: vtpm.TpmQuote
    ak_public: str


def verify(evidence: bytes, expected: Expected, roots: Roots) -> tuple[Finding, ...]:
    """See ``Verifier``. No root vouches for the key; that is the policy's to judge."""
    del roots
    parsed = decoded(expected.tee, evidence, _Evidence)
    tee, quote = expected.tee, parsed.tpm_quote
    quoted = vtpm.Quoted(
        from_base64(tee, "TPM quote", quote.message),
        tpm.parse_signature(from_base64(tee, "TPM quote signature", quote.signature)),
        vtpm.pcr_values(tee, quote),
    )
    key = _rsa_key(tee, from_base64(tee, "AK", parsed.ak_public))
    nonce = regularize(expected.report_data, _NONCE)
    vtpm.check_quote(expected, quoted, key, nonce)
    hardware: dict[str, object] = {"ak_public": parsed.ak_public, **quoted.claims()}
    return (Finding("cpu", hardware, nonce.hex(), quoted.pcrs[tpm.INIT_DATA_PCR].hex()),)


def _rsa_key(tee: str, der: bytes) -> rsa.RSAPublicKey:
    try:
        key = load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise refused(tee, "AK", "not a SubjectPublicKeyInfo") from None
    if not isinstance(key, rsa.RSAPublicKey) or not 2048 <= key.key_size <= 4096:
        raise refused(tee, "AK", "not an RSA key of 2048 to 4096 bits")
    return key
