"""Verification of evidence: sample and sampledevice only (attesters.md 21.1, kbs_protocol.md 2)."""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from agent.devkit.kbs import initdata, wire

if TYPE_CHECKING:
    from collections.abc import Mapping

CLASSES: Final = {"sample": "cpu", "sampledevice": "gpu"}
"""The TEEs that are verified here, and what the submodules of their tokens are called."""


class _Evidence(msgspec.Struct, frozen=True):
    svn: str
    report_data: str = ""


@dataclass(frozen=True, slots=True)
class Appraisal:
    """One piece of evidence that was accepted.

    Attributes:
        tee: wire string.
        submod_class: ``cpu`` or ``gpu``.
        hardware: claims below the TEE's own name.
        report_data: base64 as received.
        runtime: the object its report data is the digest of.
        init_digest: base64 of the init-data digest, or empty.
        init_claims: what init-data said.
    """

    tee: str
    submod_class: str
    hardware: Mapping[str, object]
    report_data: str
    runtime: Mapping[str, object]
    init_digest: str = ""
    init_claims: Mapping[str, object] | None = None


def verify(tee: str, attestation: wire.Attestation, hash_name: str) -> list[Appraisal]:
    """Check the primary evidence and that of every device.

    The caller has compared the nonce with its session's.

    Args:
        tee: what the request announced.
        attestation: as sent.
        hash_name: of report data, ``sha384`` unless the challenge selected another.

    Raises:
        MalformedError: any piece is refused; the text is for the server's log.
    """
    additional = attestation.tee_evidence.additional_evidence
    primary = wire.runtime_claims(attestation.runtime_data, additional)
    init = initdata.read(attestation.init_data) if attestation.init_data is not None else None
    appraisals = [_one(tee, bytes(attestation.tee_evidence.primary_evidence), primary, hash_name, init)]
    if additional:
        device = wire.runtime_claims(attestation.runtime_data, None)
        devices = wire.decode(additional.encode("utf-8"), dict[str, msgspec.Raw])
        appraisals += [_one(name, bytes(raw), device, hash_name, None) for name, raw in devices.items()]
    return appraisals


def _one(
    tee: str,
    evidence: bytes,
    runtime: Mapping[str, object],
    hash_name: str,
    init: initdata.ReadInitData | None,
) -> Appraisal:
    # T-DEV-1: hardware evidence is never waved through by a verifier that cannot read it.
    if tee not in CLASSES:
        raise wire.MalformedError(f"the development KBS verifies no {tee[:32]!r} evidence")
    parsed = wire.decode(evidence, _Evidence)
    expected = wire.report_data(runtime, hash_name)
    if not hmac.compare_digest(wire.unb64(parsed.report_data), expected):
        raise wire.MalformedError(f"report data of {tee} is not the digest of nonce, key and devices")
    hardware: dict[str, object] = {"svn": parsed.svn}
    if tee == "sample":
        hardware |= {
            "launch_digest": "abcde",
            "platform_version": {"major": 1, "minor": 4},
            "debug": False,
        }
    return Appraisal(
        tee=tee,
        submod_class=CLASSES[tee],
        hardware=hardware,
        report_data=parsed.report_data,
        runtime=runtime,
        init_digest=base64.b64encode(init.digest).decode("ascii") if init else "",
        init_claims=init.claims if init else None,
    )
