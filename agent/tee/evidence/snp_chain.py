"""Whether an SNP report holds, from its signature to AMD's root; no network (attesters.md 18.1, 21.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agent.config import pem
from agent.errors import AgentError
from agent.tee.evidence import certs, der
from agent.tee.evidence.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.tee.evidence.snp import SnpReport
    from agent.tee.evidence.verdict import Roots

KEY_SERVER: Final = "https://kdsintf.amd.com"
"""AMD's key distribution service."""

ECDSA_P384_SHA384: Final = 1

_ARC: Final = "1.3.6.1.4.1.3704.1"
_HARDWARE_ID: Final = f"{_ARC}.4"
_PROVIDER: Final = f"{_ARC}.5"
_LEVELS: Final = {
    "bootloader": f"{_ARC}.3.1",
    "tee": f"{_ARC}.3.2",
    "snp": f"{_ARC}.3.3",
    "microcode": f"{_ARC}.3.8",
    "fmc": f"{_ARC}.3.9",
}


class _Vek(msgspec.Struct, frozen=True):
    """A certificate of a key that signs reports.

    Attributes:
        kind: ``VCEK`` or ``VLEK``.
        vendor: values of AMD's own extensions by OID, DER.
    """

    kind: str
    certificate: x509.Certificate
    vendor: dict[str, bytes]


def verify(report: SnpReport, certificates: Sequence[bytes], roots: Roots) -> tuple[Check, ...]:
    """Every link of a report, each as one check. Dates, revocation, VMPL and policy are not looked at.

    Args:
        report: a parsed report.
        certificates: DER (or PEM) certificates in any order: the signing key's, and ASK, ASVK or ARK where at
            hand. What is no certificate, such as a revocation list of the host's table, is passed by.
        roots: pinned ARKs; ``roots.certificates`` may complete the chain.

    Returns:
        ``signing key``, ``certificate chain``, ``report signature``, ``certified TCB`` and ``chip id``, in
        this order. ``passed`` is None where a certificate is not at hand; the detail names it and where to
        get it.
    """
    given = _load(certificates)
    vek = _find(report, given)
    if vek is None:
        wanted = "needs the certificate of the signing key"
        names = ("certificate chain", "report signature", "certified TCB", "chip id")
        return (_missing(report, given), *(Check(name, passed=None, detail=wanted) for name in names))
    return (
        Check("signing key", passed=True, detail=f"{vek.kind} of {_product(vek)}"),
        _chain(report, vek, given, roots),
        _signature(report, vek),
        _levels(report, vek),
        _chip(report, vek),
    )


def vcek_url(report: SnpReport) -> str | None:
    """Where AMD gives out the VCEK of this chip at the reported TCB; None when the chip id is masked."""
    if report.masked_chip_id:
        return None
    tcb = report.reported_tcb
    fmc = "" if tcb.fmc is None else f"fmcSPL={tcb.fmc:02}&"
    levels = f"blSPL={tcb.bootloader:02}&teeSPL={tcb.tee:02}&snpSPL={tcb.snp:02}&ucodeSPL={tcb.microcode:02}"
    return f"{KEY_SERVER}/vcek/v1/{report.generation}/{report.hardware_id.hex()}?{fmc}{levels}"


def chain_url(report: SnpReport, issuer: str = "") -> str:
    """Where AMD gives out ASK (or ASVK) and ARK for this report.

    Args:
        report: its generation and kind of key choose the chain.
        issuer: name of the signing key's issuer; it decides where a report fits two generations.
    """
    product = next((each for each in report.generations if each in issuer), report.generation)
    return f"{KEY_SERVER}/{report.signing_key.lower()}/v1/{product}/cert_chain"


def _load(items: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    found: list[x509.Certificate] = []
    for each in items:
        try:
            if pem.is_pem(each):
                found += certs.load_pem_chain(each)
            else:
                found.append(certs.load_der(each))
        except AgentError:  # a CRL, or the host's own data; nothing depends on what cannot be read
            continue
    return tuple(found)


def _find(report: SnpReport, given: Sequence[x509.Certificate]) -> _Vek | None:
    """The certificate that the report's signing key has, of several the one that verifies the report."""
    found = [vek for vek in map(_vek, given) if vek is not None and vek.kind == report.signing_key]
    return next((vek for vek in found if _signature(report, vek).passed), found[0] if found else None)


def _vek(certificate: x509.Certificate) -> _Vek | None:
    """None for a certificate that certifies no patch levels: ASK, ASVK, ARK."""
    extensions = certs.extensions(certificate)
    if extensions is None:
        return None
    vendor = {
        each.oid.dotted_string: each.value.value
        for each in extensions
        if isinstance(each.value, x509.UnrecognizedExtension)
    }
    if _LEVELS["bootloader"] not in vendor:
        return None
    is_vlek = "VLEK" in certs.name(certificate) or (_PROVIDER in vendor and _HARDWARE_ID not in vendor)
    return _Vek("VLEK" if is_vlek else "VCEK", certificate, vendor)


def _product(vek: _Vek) -> str:
    try:
        (name,) = der.elements(vek.vendor.get(f"{_ARC}.2", b""))
    except (AgentError, ValueError):
        return "an unnamed product"
    return ascii(name.content[:32].decode("ascii", "replace"))[1:-1]


def _missing(report: SnpReport, given: Sequence[x509.Certificate]) -> Check:
    kind = report.signing_key
    if kind not in {"VCEK", "VLEK"}:
        return Check(
            "signing key",
            passed=False,
            detail=f"the report says its signing key is {kind!r}: it is not signed",
        )
    others = sorted({vek.kind for vek in map(_vek, given) if vek is not None})
    instead = f", {others[0]} is at hand" if others else ""
    if kind == "VLEK":
        where = "only the host hands it out, in its certificate table"
    elif url := vcek_url(report):
        where = f"get it at {url}"
        if report.generations[1:]:
            where += f" (or {' or '.join(report.generations[1:])} for {report.generation})"
    else:
        where = "the chip id is masked, so AMD's key server cannot be asked for it"
    return Check("signing key", passed=None, detail=f"{kind} is missing{instead}; {where}")


def _chain(report: SnpReport, vek: _Vek, given: Sequence[x509.Certificate], roots: Roots) -> Check:
    others = [each for each in (*given, *_load(roots.certificates)) if each != vek.certificate]
    chain = certs.path(vek.certificate, others, roots.amd)
    if chain is None:
        return _broken_chain(report, vek, others)
    names = " < ".join(certs.name(each) for each in chain)
    if not certs.issued(chain[-1], chain[-1]):
        return Check("certificate chain", passed=False, detail=f"{names}: the root does not sign itself")
    return Check("certificate chain", passed=True, detail=names)


def _broken_chain(report: SnpReport, vek: _Vek, others: Sequence[x509.Certificate]) -> Check:
    """Why there is no chain: an issuer is not at hand, or one does not vouch, or the root is not pinned."""
    last, left = vek.certificate, list(others)
    url = chain_url(report, certs.issuer_name(last))
    while True:
        named = [each for each in left if each.subject == last.issuer]
        if not named:
            detail = f"{certs.issuer_name(last)} is missing, which issued {certs.name(last)}"
            return Check("certificate chain", passed=None, detail=f"{detail}; get it at {url}")
        issuer = next((each for each in named if certs.issued(each, last)), None)
        if issuer is None or not certs.is_authority(issuer):
            return Check(
                "certificate chain",
                passed=False,
                detail=f"{certs.name(named[0])} does not vouch for {certs.name(last)}",
            )
        if issuer.subject == issuer.issuer:
            return Check(
                "certificate chain",
                passed=False,
                detail=f"ends at {certs.name(issuer)}, which is not trusted",
            )
        left.remove(issuer)
        last = issuer


def _signature(report: SnpReport, vek: _Vek) -> Check:
    name = "report signature"
    if report.signature_algorithm != ECDSA_P384_SHA384:
        return Check(
            name,
            passed=False,
            detail=f"algorithm {report.signature_algorithm} is not ECDSA P-384 with SHA-384",
        )
    raw = report.signature_r[::-1] + report.signature_s[::-1]
    holds = certs.signed_by(vek.certificate.public_key(), raw, report.signed, ec.SECP384R1, hashes.SHA384())
    return Check(
        name,
        passed=holds,
        detail="ECDSA P-384 with SHA-384" if holds else _unsigned(report, vek),
    )


def _unsigned(report: SnpReport, vek: _Vek) -> str:
    if report.masked_chip_key:
        return "the host keeps the firmware from signing with the chip's key (MASK_CHIP_KEY)"
    return f"not by the key of this {vek.kind}"


def _levels(report: SnpReport, vek: _Vek) -> Check:
    """Patch levels in the certificate against the reported TCB, as integers (attesters.md 20, row 23)."""
    tcb, wrong = report.reported_tcb, []
    for name, oid in _LEVELS.items():
        reported: int | None = getattr(tcb, name)
        if reported is None:
            continue  # no FMC before Turin
        certified = _level(vek.vendor.get(oid))
        if certified != reported:
            wrong.append(
                f"{name} {reported} reported, {'none' if certified is None else certified} certified"
            )
    return Check("certified TCB", passed=not wrong, detail="; ".join(wrong) or str(tcb))


def _level(value: bytes | None) -> int | None:
    if value is None:
        return None
    try:
        (number,) = der.elements(value)
        return der.unsigned(number)
    except (AgentError, ValueError):
        return None


def _chip(report: SnpReport, vek: _Vek) -> Check:
    """The chip in the certificate against the one in the report (attesters.md 20, row 21)."""
    value = vek.vendor.get(_HARDWARE_ID)
    if value is None:
        return Check("chip id", passed=True, detail=f"this {vek.kind} is not bound to a chip")
    if report.masked_chip_id:
        return Check(
            "chip id",
            passed=True,
            detail="masked by the host in the report; only the signature names the chip",
        )
    certified, own = _unwrapped(value), report.hardware_id
    if certified.ljust(64, b"\0") == report.chip_id and len(certified) in {len(own), 64}:
        return Check("chip id", passed=True, detail=own.hex())
    return Check("chip id", passed=False, detail=f"{own.hex()} reported, {certified[:64].hex()} certified")


def _unwrapped(value: bytes) -> bytes:
    """A hardware id, raw or in an OCTET STRING; both have 8 or 64 bytes, so the length tells."""
    if len(value) in {10, 66} and value[:2] == bytes([der.OCTETS, len(value) - 2]):
        return value[2:]
    return value
