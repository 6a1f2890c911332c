"""Verification of evidence: one module per TEE (attesters.md 21, kbs_protocol.md 2)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

import msgspec

from agent.devkit.kbs import initdata, wire
from agent.devkit.kbs.verifiers.appraisal import Appraisal, Expected, Verifier, refused
from agent.errors import AgentError
from agent.tee.evidence.verdict import VENDOR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.tee.evidence.verdict import Roots

__all__ = ["VERIFIERS", "Appraisal", "verify"]

_HERE: Final = "agent.devkit.kbs.verifiers."
VERIFIERS: Final[Mapping[str, tuple[str, str]]] = {
    "sample": ("sample", "verify"),
    "sampledevice": ("sample", "verify_device"),
    "snp": ("snp", "verify"),
    "tdx": ("tdx", "verify"),
    "az-snp-vtpm": ("az_snp_vtpm", "verify"),
    "az-tdx-vtpm": ("az_tdx_vtpm", "verify"),
    "tpm": ("plain_tpm", "verify"),
    "nvidia": ("nvidia", "verify"),
}
"""Wire string to module and function of the TEEs that are verified here; loaded when one is asked for."""


def verify(tee: str, attestation: wire.Attestation, hash_name: str, roots: Roots = VENDOR) -> list[Appraisal]:
    """Check the primary evidence and that of every device.

    The caller has compared the nonce with its session's.

    Args:
        tee: what the request announced.
        attestation: as sent.
        hash_name: of report data, ``sha384`` unless the challenge selected another.
        roots: where chains have to end.

    Raises:
        MalformedError: any piece is refused; the text is for the server's log.
    """
    additional = attestation.tee_evidence.additional_evidence
    primary = wire.runtime_claims(attestation.runtime_data, additional)
    init = initdata.read(attestation.init_data) if attestation.init_data is not None else None
    appraisals = _one(tee, bytes(attestation.tee_evidence.primary_evidence), primary, hash_name, roots, init)
    if additional:
        device = wire.runtime_claims(attestation.runtime_data, None)
        devices = wire.decode(additional.encode("utf-8"), dict[str, msgspec.Raw])
        for name, raw in devices.items():
            appraisals += _one(name, bytes(raw), device, hash_name, roots, None)
    return appraisals


def _one(  # noqa: PLR0917 - what a verdict depends on
    tee: str,
    evidence: bytes,
    runtime: Mapping[str, object],
    hash_name: str,
    roots: Roots,
    init: initdata.ReadInitData | None,
) -> list[Appraisal]:
    place = VERIFIERS.get(tee)
    # T-DEV-1: hardware evidence is never waved through by a verifier that cannot read it.
    if place is None:
        raise wire.MalformedError(f"the development KBS verifies no {tee[:32]!r} evidence")
    expected = Expected(tee, wire.report_data(runtime, hash_name), init.digest if init else None)
    verifier: Verifier = getattr(import_module(_HERE + place[0]), place[1])
    try:
        findings = verifier(evidence, expected, roots)
    except AgentError as error:
        raise refused(tee, "format", error.detail) from error
    return [
        Appraisal(
            tee=tee,
            submod_class=found.submod_class,
            hardware=found.hardware,
            report_data=found.report_data,
            runtime=runtime,
            init_data=found.init_data,
            init_claims=init.claims if init else None,
        )
        for found in findings
    ]
