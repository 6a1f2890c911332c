"""``coco-agent doctor``."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from typing import TYPE_CHECKING

from agent.cli import connect, text
from agent.cli.sources import add_config_options, kernel_command_line, load_config

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from agent.doctor.finding import Finding, Patient

_COLOURS = {"good": "32", "warning": "33", "BAD": "31;1", "unknown": "2"}


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_config_options(parser)
    parser.add_argument("--offline", action="store_true", help="do not talk to the key broker")
    parser.add_argument("--all", action="store_true", help="also show probes that found nothing")
    parser.add_argument(
        "--wanted", default="", metavar="TEE", help="the TEE this guest should have, e.g. snp"
    )
    parser.add_argument("--sysroot", default="/", metavar="DIR", help="look below this folder (default: /)")
    parser.add_argument("--bundle", metavar="FILE", help="also write a redacted archive for support")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: Namespace) -> int:
    """Examine the guest. Needs no running agent; makes one quote and asks the broker for one challenge."""
    from agent.doctor.examination import as_json, bundle, healthy  # noqa: PLC0415  # keeps --help light
    from agent.observe.redact import ResourceNames  # noqa: PLC0415

    patient = _patient(arguments)
    findings = asyncio.run(_examine(patient, arguments))
    if arguments.json:
        shown = [as_json(finding) for finding in findings]
        text.print_json({"tee": patient.detection.tee, "healthy": healthy(findings), "findings": shown})
    else:
        bad = sum(finding.verdict.value == "BAD" for finding in findings)
        print(f"\n{len(findings)} looked at, {bad} bad")
    if arguments.bundle:
        names = ResourceNames(patient.config.observe.log_resource_names)
        connect.write_output(bundle(patient, findings, names), arguments.bundle)
        print(f"written: {arguments.bundle}", file=sys.stderr)
    return text.EXIT_OK if healthy(findings) else text.EXIT_FAILED


def _patient(arguments: Namespace) -> Patient:
    from dataclasses import replace  # noqa: PLC0415

    from agent.clock import SystemClock  # noqa: PLC0415
    from agent.doctor.finding import Patient  # noqa: PLC0415
    from agent.tee.platform import detect  # noqa: PLC0415

    config = load_config(arguments)
    config = replace(config, attester=replace(config.attester, sysroot=arguments.sysroot))
    return Patient(
        config=config,
        detection=detect(arguments.sysroot, os.environ, platform.machine(), config.attester),
        environ=os.environ,
        machine=platform.machine(),
        release=platform.release(),
        cmdline=kernel_command_line(),
        clock=SystemClock(),
        wanted=arguments.wanted,
    )


async def _examine(patient: Patient, arguments: Namespace) -> list[Finding]:
    from agent.doctor.examination import examine  # noqa: PLC0415

    findings = []
    async for finding in examine(patient, offline=arguments.offline):
        findings.append(finding)
        quiet = finding.verdict.value == "unknown" and not arguments.all
        if not arguments.json and not quiet:
            _print(finding)
    return findings


def _print(finding: Finding) -> None:
    word = finding.verdict.value.ljust(7)
    if text.colourful():
        word = text.painted(word, _COLOURS[finding.verdict.value])
    print(f"{word}  {finding.area}: {finding.name}: {finding.seen}", flush=True)
    if finding.next_step:
        print(f"         next: {finding.next_step}")
