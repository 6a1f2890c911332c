"""Guests to be looked at, made of files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent.config.model import Attester, Config
from agent.devkit.clock import FakeClock
from agent.doctor.finding import Finding, Patient, Verdict
from agent.tee.platform import detect

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def patient(
    root: Path, *, wanted: str = "", cmdline: str = "", release: str = "6.12.1", **settings: object
) -> Patient:
    attester = replace(Attester(sysroot=str(root)), **settings)
    return Patient(
        config=Config(attester=attester),
        detection=detect(str(root), {}, "x86_64"),
        environ={},
        machine="x86_64",
        release=release,
        cmdline=cmdline,
        clock=FakeClock(),
        wanted=wanted,
    )


def put(root: Path, name: str, content: bytes = b"") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def one(findings: Iterable[Finding], name: str) -> Finding:
    (found,) = [finding for finding in findings if finding.name == name]
    if found.verdict is Verdict.BAD:
        assert found.next_step, "what is bad has a next step"
    return found
