"""Whether a quote holds: from the attested body to Intel's root, without a network (attesters.md 18.3, 21.3).

What Intel publishes from day to day (TCB levels, revocations) is not in a quote. It is one check of its own,
never passed here; callers that decide without it say so: :func:`offline`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agent.errors import AgentError
from agent.tee.evidence import certs
from agent.tee.evidence.pck import Pck, parse_pck
from agent.tee.evidence.quote import INTEL_VENDOR, SGX, TDX, Quote
from agent.tee.evidence.reader import malformed
from agent.tee.evidence.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cryptography import x509

    from agent.tee.evidence.verdict import Roots

TCB_STATUS: Final = "TCB status"
"""Name of the check that needs Intel's collateral. It is always there and never passed or failed."""

QUOTING_ENCLAVES: Final = {
    SGX: (bytes.fromhex("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff"), 1),
    TDX: (bytes.fromhex("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"), 2),
}
"""TEE type to MRSIGNER and product id of Intel's quoting enclaves, as in Intel's QE identities."""


def verify(quote: Quote, roots: Roots) -> tuple[Check, ...]:
    """Every link of a quote, each as one check.

    The links are: the attestation key signed the quote; the quoting enclave vouches for that key; the PCK
    certificate's key signed the quoting enclave's report; that enclave is Intel's; the chain ends at a root.

    Returns:
        ``quote signature``, ``key binding``, ``QE report signature``, ``QE identity``, ``PCK chain`` and
        ``TCB status``, in this order.
    """
    chain, problem = _chain(quote)
    return (
        _quote_signature(quote),
        _key_binding(quote),
        _qe_signature(quote, chain, problem),
        _qe_identity(quote),
        _pck_chain(chain, problem, roots),
        Check(TCB_STATUS, None, "needs Intel's collateral (TCB info, QE identity, CRLs)"),
    )


def offline(checks: Iterable[Check]) -> tuple[Check, ...]:
    """The checks that can be made without collateral: all but the TCB status.

    ``holds(offline(verify(quote, roots)))`` is what a verifier without collateral can say; it must mark the
    TCB status as unverified.
    """
    return tuple(check for check in checks if check.name != TCB_STATUS)


def leaf_pck(quote: Quote) -> Pck:
    """The SGX extension of the quote's PCK certificate; true only if :func:`verify` holds.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    if not quote.chain_pem:
        raise malformed("quote", f"certification data of type {quote.certification_type} has no certificate")
    return parse_pck(certs.load_pem_chain(quote.chain_pem)[0])


def _chain(quote: Quote) -> tuple[tuple[x509.Certificate, ...], str]:
    """The quote's certificates, or none and why."""
    if not quote.chain_pem:
        return (), f"the quote names its PCK only (certification data of type {quote.certification_type})"
    try:
        return certs.load_pem_chain(quote.chain_pem), ""
    except AgentError as error:
        return (), error.detail


def _quote_signature(quote: Quote) -> Check:
    name = "quote signature"
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + quote.attestation_key)
    except ValueError:
        return Check(name, passed=False, detail="the attestation key is no point of P-256")
    passed = certs.signed_by(key, quote.signature, quote.signed, ec.SECP256R1, hashes.SHA256())
    return Check(name, passed, "by the attestation key" if passed else "not by the attestation key")


def _key_binding(quote: Quote) -> Check:
    passed = quote.quoting_enclave.report_data == quote.key_binding
    return Check(
        "key binding",
        passed,
        "the quoting enclave vouches for the attestation key"
        if passed
        else "the quoting enclave's report data is not the digest of the attestation key",
    )


def _qe_signature(quote: Quote, chain: Sequence[x509.Certificate], problem: str) -> Check:
    name = "QE report signature"
    if not chain:
        return Check(name, passed=False if quote.chain_pem else None, detail=problem)
    passed = certs.signed_by(
        chain[0].public_key(), quote.qe_signature, quote.qe_report, ec.SECP256R1, hashes.SHA256()
    )
    return Check(name, passed, f"{'by' if passed else 'not by'} {certs.name(chain[0])}")


def _qe_identity(quote: Quote) -> Check:
    # T-TEE-18: a PCK signs for any enclave with the provisioning attribute; only Intel's makes honest quotes.
    enclave, (signer, product) = quote.quoting_enclave, QUOTING_ENCLAVES[quote.tee_type]
    seen = f"MRSIGNER {enclave.mr_signer.hex()[:16]}..., product {enclave.isv_prod_id}, SVN {enclave.isv_svn}"
    passed = (
        (enclave.mr_signer, enclave.isv_prod_id) == (signer, product)
        and quote.vendor_id == INTEL_VENDOR
        and not enclave.debug
    )
    return Check("QE identity", passed, seen if passed else f"not Intel's quoting enclave: {seen}")


def _pck_chain(chain: Sequence[x509.Certificate], problem: str, roots: Roots) -> Check:
    name = "PCK chain"
    if not chain:
        return Check(name, passed=None if problem.startswith("the quote names") else False, detail=problem)
    try:
        pck = parse_pck(chain[0])
    except AgentError as error:
        return Check(name, passed=False, detail=error.detail)
    found = certs.path(chain[0], [*chain[1:], *map(certs.load_der, roots.certificates)], roots.intel)
    if found is None:
        return Check(name, passed=False, detail="does not end at an accepted root")
    return Check(
        name, passed=True, detail=f"{' < '.join(map(certs.name, found))}; FMSPC {pck.fmspc.hex().upper()}"
    )
