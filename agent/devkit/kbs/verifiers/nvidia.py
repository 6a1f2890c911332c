"""``nvidia``, local verification as far as it goes without reference measurements (attesters.md 21.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agent.devkit.kbs.verifiers.appraisal import Expected, Finding, decoded, from_base64, refused, require
from agent.tee.base import regularize
from agent.tee.evidence import spdm

if TYPE_CHECKING:
    from agent.tee.evidence.verdict import Roots

MAX_DEVICES: Final = 32
NONCE: Final = 32


class _Device(msgspec.Struct, frozen=True):
    arch: str
    uuid: str
    evidence: str
    certificate: str


class _Evidence(msgspec.Struct, frozen=True):
    device_evidence_list: list[_Device]


def verify(evidence: bytes, expected: Expected, roots: Roots) -> tuple[Finding, ...]:
    """See ``Verifier``. One submodule per device: ``switch`` for an LS10, ``gpu`` for the others."""
    devices = decoded(expected.tee, evidence, _Evidence).device_evidence_list
    if not 1 <= len(devices) <= MAX_DEVICES:
        raise refused(expected.tee, "devices", f"{len(devices)} in the list")
    return tuple(_device(each, expected, roots) for each in devices)


def _device(device: _Device, expected: Expected, roots: Roots) -> Finding:
    tee, nonce = expected.tee, regularize(expected.report_data, NONCE)
    report = spdm.parse(from_base64(tee, "SPDM report", device.evidence))
    if report.nonce != nonce:
        raise refused(tee, "report data", "the SPDM report has another nonce")
    chain = from_base64(tee, "certificate", device.certificate)
    require(tee, spdm.verify(report, chain, roots, nonce))
    hardware: dict[str, object] = {
        "arch": device.arch[:32],
        "uuid": device.uuid[:64],
        "measurements_status": "unverified",
    }
    return Finding("switch" if device.arch == "LS10" else "gpu", hardware, nonce.hex())
