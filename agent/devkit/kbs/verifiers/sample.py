"""``sample`` and ``sampledevice``: nothing but report data (attesters.md 21.1)."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

import msgspec

from agent.devkit.kbs import wire
from agent.devkit.kbs.verifiers.appraisal import Expected, Finding, base64_of, decoded, refused

if TYPE_CHECKING:
    from agent.tee.evidence.verdict import Roots


class _Evidence(msgspec.Struct, frozen=True):
    svn: str
    report_data: str = ""


def verify(evidence: bytes, expected: Expected, roots: Roots) -> tuple[Finding, ...]:
    """See ``Verifier``. Init-data is echoed, not compared."""
    del roots
    parsed = _check(evidence, expected)
    hardware: dict[str, object] = {
        "svn": parsed.svn,
        "launch_digest": "abcde",
        "platform_version": {"major": 1, "minor": 4},
        "debug": False,
    }
    return (Finding("cpu", hardware, parsed.report_data, base64_of(expected.init_digest or b"")),)


def verify_device(evidence: bytes, expected: Expected, roots: Roots) -> tuple[Finding, ...]:
    """See ``Verifier``."""
    del roots
    parsed = _check(evidence, expected)
    return (Finding("gpu", {"svn": parsed.svn}, parsed.report_data),)


def _check(evidence: bytes, expected: Expected) -> _Evidence:
    parsed = decoded(expected.tee, evidence, _Evidence)
    # Not cut and not padded: a sample has no field of fixed size.
    if not hmac.compare_digest(wire.unb64(parsed.report_data), expected.report_data):
        raise refused(expected.tee, "report data", "not the digest of nonce, key and devices")
    return parsed
