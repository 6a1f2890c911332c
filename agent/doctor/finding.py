"""What the doctor found: one verdict per line, with the next step."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import msgspec

from agent.secret import without

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.clock import Clock
    from agent.config.model import Config
    from agent.errors import AgentError
    from agent.tee.platform import Detection


class Verdict(enum.Enum):
    """How it looks; the value is what is printed."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "BAD"
    UNKNOWN = "unknown"


class Finding(msgspec.Struct, frozen=True):
    """One line.

    Attributes:
        area: e.g. ``device``, ``key broker``.
        name: what was looked at.
        verdict: how it looks.
        seen: in words; holds no secret. It may hold addresses: only the operator sees it.
        next_step: what to do; empty when there is nothing to do.
    """

    area: str
    name: str
    verdict: Verdict
    seen: str
    next_step: str = ""


class Patient(msgspec.Struct, frozen=True):
    """What is looked at.

    Attributes:
        config: the effective configuration.
        detection: which TEE was found.
        environ: the process environment.
        machine: ``uname -m``.
        release: ``uname -r``.
        cmdline: the kernel command line.
        clock: for times.
        wanted: wire string of the TEE that the operator says this guest should have; or empty.
    """

    config: Config
    detection: Detection
    environ: Mapping[str, str]
    machine: str
    release: str
    cmdline: str
    clock: Clock
    wanted: str = ""

    def __repr__(self) -> str:
        return without(self, "environ")

    @property
    def sysroot(self) -> str:
        """Prefix of /sys, /dev and /proc."""
        return self.config.attester.sysroot


def as_json(finding: Finding) -> dict[str, str]:
    """One finding for programs."""
    return {
        "area": finding.area,
        "name": finding.name,
        "verdict": finding.verdict.name.lower(),
        "seen": finding.seen,
        "next": finding.next_step,
    }


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether nothing is bad."""
    return all(finding.verdict is not Verdict.BAD for finding in findings)


def failed(area: str, name: str, error: AgentError) -> Finding:
    """A finding for an error: its code, its cause, its hint."""
    cause = f": {error.detail}" if error.detail else ""
    return Finding(area, name, Verdict.BAD, f"{error.code.name}{cause}", error.hint)
