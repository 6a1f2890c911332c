"""``coco-agent doctor``."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from typing import TYPE_CHECKING

from agent.cli import connect, text
from agent.cli.sources import add_config_options, agent_part, kernel_command_line, load_config
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

    from agent.config.assemble import InitDataFile
    from agent.doctor.finding import Finding, Patient

_COLOURS = {"good": "32", "warning": "33", "BAD": "31;1", "unknown": "2"}


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_config_options(parser)
    parser.add_argument(
        "--node",
        action="store_true",
        help="look at a Kubernetes worker node instead: can it run confidential guests (needs no files)",
    )
    parser.add_argument("--offline", action="store_true", help="do not talk to the key broker")
    parser.add_argument("--all", action="store_true", help="also show probes that found nothing")
    parser.add_argument(
        "--wanted", default="", metavar="TEE", help="the TEE this guest or node should have, e.g. snp"
    )
    parser.add_argument("--sysroot", default="/", metavar="DIR", help="look below this folder (default: /)")
    parser.add_argument("--bundle", metavar="FILE", help="also write a redacted archive for support")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: Namespace) -> int:
    """Examine the guest. Needs no running agent; makes one quote and asks the broker for one challenge."""
    if arguments.node:
        return _node(arguments)
    from agent.doctor.examination import bundle  # noqa: PLC0415  # keeps --help light
    from agent.observe.redact import ResourceNames  # noqa: PLC0415

    patient = _patient(arguments)
    findings = asyncio.run(_examine(patient, arguments))
    status = _sum_up(findings, patient.detection.tee, arguments)
    if arguments.bundle:
        names = ResourceNames(patient.config.observe.log_resource_names)
        connect.write_output(bundle(patient, findings, names), arguments.bundle)
        print(f"written: {arguments.bundle}", file=sys.stderr)
    return status


def _node(arguments: Namespace) -> int:
    """Examine the host side: reads files, changes nothing."""
    from agent.doctor.node.examination import examine, likely  # noqa: PLC0415
    from agent.doctor.node.host import Node  # noqa: PLC0415

    if arguments.bundle:
        raise AgentError(ErrorCode.INVALID_REQUEST, "--bundle is for guests; with --node use --json")
    node = Node(arguments.sysroot, arguments.wanted)
    findings = []
    for finding in examine(node):
        findings.append(finding)
        _print(finding, arguments)
    return _sum_up(findings, node.wanted or likely(node) or None, arguments)


def _sum_up(findings: Sequence[Finding], tee: str | None, arguments: Namespace) -> int:
    from agent.doctor.finding import as_json, healthy  # noqa: PLC0415

    if arguments.json:
        shown = [as_json(finding) for finding in findings]
        text.print_json({"tee": tee, "healthy": healthy(findings), "findings": shown})
    else:
        bad = sum(finding.verdict.value == "BAD" for finding in findings)
        print(f"\n{len(findings)} looked at, {bad} bad")
    return text.EXIT_OK if healthy(findings) else text.EXIT_FAILED


def _patient(arguments: Namespace) -> Patient:
    from msgspec.structs import replace  # noqa: PLC0415

    from agent.clock import SystemClock  # noqa: PLC0415
    from agent.doctor.finding import Patient  # noqa: PLC0415
    from agent.tee.platform import detect  # noqa: PLC0415

    config = load_config(arguments)
    config = replace(config, attester=replace(config.attester, sysroot=arguments.sysroot))
    patient = Patient(
        config=config,
        detection=detect(arguments.sysroot, os.environ, platform.machine(), config.attester),
        environ=os.environ,
        machine=platform.machine(),
        release=platform.release(),
        cmdline=kernel_command_line(),
        clock=SystemClock(),
        wanted=arguments.wanted,
    )
    init_data = _init_data(patient)
    if init_data is None:
        return patient
    config = load_config(arguments, init_data=init_data)
    return replace(
        patient, config=replace(config, attester=replace(config.attester, sysroot=arguments.sysroot))
    )


def _init_data(patient: Patient) -> InitDataFile | None:
    """What the daemon took from init-data. Whether the hardware vouches for it is a finding of its own."""
    from agent.doctor.guest import INIT_DATA, read_init_data  # noqa: PLC0415  # keeps --help light

    try:
        document = read_init_data(patient)
    except AgentError:
        return None  # told by the finding about the document
    return None if document is None else agent_part(document, f"/{INIT_DATA}")


async def _examine(patient: Patient, arguments: Namespace) -> list[Finding]:
    from agent.doctor.examination import examine  # noqa: PLC0415

    findings = []
    async for finding in examine(patient, offline=arguments.offline):
        findings.append(finding)
        _print(finding, arguments)
    return findings


def _print(finding: Finding, arguments: Namespace) -> None:
    """One line, at once; programs wait for the whole."""
    if arguments.json or (finding.verdict.value == "unknown" and not arguments.all):
        return
    word = finding.verdict.value.ljust(7)
    if text.colourful():
        word = text.painted(word, _COLOURS[finding.verdict.value])
    print(f"{word}  {finding.area}: {finding.name}: {finding.seen}", flush=True)
    if finding.next_step:
        print(f"         next: {finding.next_step}")
