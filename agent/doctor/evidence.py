"""The way to evidence: a real quote, every device, registers and event log."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.clock import Deadline
from agent.doctor import guest
from agent.doctor.finding import Finding, Patient, Verdict, failed
from agent.errors import AgentError, ErrorCode
from agent.tee.attesters import MODULES, DeviceAttester
from agent.tee.eventlog import problems, shipped, unreplayable
from agent.tee.eventlog.ship import CCEL, LOG_NAME
from agent.tee.evidence.events import parse_log, replay
from agent.tee.evidence.tpm import INIT_DATA_PCR
from agent.tee.initdata_transport import expected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

AREA: Final = "evidence"
_QUOTE: Final = 20.0
_WITHOUT_CCEL: Final = (
    "Verifiers cannot replay RTMR0 to 2, and would refuse evidence with runtime events: none are measured "
    "unless eventlog_config.require_firmware_log is false. Use firmware that writes the CC log."
)
_REPORT_DATA: Final = b"coco-agent doctor".ljust(48, b"\0")


async def quote(patient: Patient) -> AsyncIterator[Finding]:
    """One piece of evidence of the TEE and of every device, as an attestation would ask for it."""
    expected_names = [name.partition(":")[0] for name in patient.config.attester.expected_devices]
    for tee in (patient.detection.tee, *patient.detection.devices):
        if tee not in MODULES:
            continue
        began = patient.clock.boot()
        attester = DeviceAttester(tee, patient.config.attester)
        try:
            evidence = await attester.collect(_REPORT_DATA, Deadline.after(patient.clock, _QUOTE))
        except AgentError as error:
            yield failed(AREA, tee, error)
        else:
            took = patient.clock.boot() - began
            yield Finding(AREA, tee, Verdict.GOOD, f"{len(evidence)} bytes in {took:.2f} s")
    for name in expected_names:
        if name not in patient.detection.devices:
            yield failed(
                AREA, name, AgentError(ErrorCode.DEVICE_MISSING, f"{name} is expected and was not detected")
            )


async def gpu(patient: Patient) -> AsyncIterator[Finding]:
    """NVIDIA: driver, nodes, library; the quote above is the proof."""
    root = Path(patient.sysroot)
    nodes = sorted(path.name for path in (root / "dev").glob("nvidia[0-9]*"))
    driver = (root / "proc/driver/nvidia/version").exists()
    if not nodes and not driver:
        yield Finding("GPU", "nvidia", Verdict.UNKNOWN, "no NVIDIA driver and no device")
        return
    yield Finding(
        "GPU",
        "driver",
        Verdict.GOOD if driver and nodes else Verdict.BAD,
        f"{'loaded' if driver else 'not loaded'}; {len(nodes)} GPUs ({', '.join(nodes[:8])})",
        ""
        if driver and nodes
        else "Load the nvidia driver in the guest; the host must set the GPU's CC mode.",
    )
    try:
        import pynvml  # type: ignore[import-untyped,unused-ignore]  # noqa: F401, PLC0415 - is it there?
    except ImportError:
        yield Finding(
            "GPU",
            "library",
            Verdict.BAD,
            "nvidia-ml-py is not installed",
            "Install coco-guest-agent[nvidia], or put it into the guest image.",
        )


async def registers(patient: Patient) -> AsyncIterator[Finding]:
    """What init-data should have left in the hardware, and whether measurements can be made."""
    tee, settings = patient.detection.tee, patient.config.attester
    if tee not in MODULES:
        return
    attester = DeviceAttester(tee, settings)
    soon = Deadline.after(patient.clock, _QUOTE)
    async for finding in _bound(patient, attester, soon):
        yield finding
    measures = attester.registers
    if measures is None:
        yield Finding("measurement", "registers", Verdict.UNKNOWN, f"{tee} has none for software")
        return
    try:
        problem = await attester.ask(partial(measures.measurement_problem, settings), soon)
    except AgentError as error:
        yield failed("measurement", "registers", error)
        return
    if problem is None and getattr(measures, "FIRMWARE_LOG", False):
        problem = unreplayable(settings)
    verdict = Verdict.GOOD
    if problem:
        verdict = Verdict.BAD if settings.enable_eventlog else Verdict.UNKNOWN
    state = "on" if settings.enable_eventlog else "off (eventlog_config.enable_eventlog)"
    yield Finding(
        "measurement", "registers", verdict, f"{problem or 'can be extended'}; the event log is {state}"
    )


async def _bound(patient: Patient, attester: DeviceAttester, soon: Deadline) -> AsyncIterator[Finding]:
    try:
        document = guest.read_init_data(patient)
    except AgentError:  # said by the init-data lines
        return
    if document is None:
        return
    measures = attester.registers
    try:
        if "vtpm" in attester.tee or attester.tee == "tpm":
            # Binding would extend the register; here it is only read.
            if measures is None:
                return
            read = partial(measures.read_register, patient.config.attester, INIT_DATA_PCR)
            value = await attester.ask(read, soon)
            if value != expected(document.digest).pcr8:
                raise AgentError(ErrorCode.INIT_DATA_MISMATCH, f"PCR 8 is {value.hex()}")
        else:
            await attester.bind_init_data(document.digest, soon)
    except AgentError as error:
        if error.code is ErrorCode.NOT_SUPPORTED:
            yield Finding("init-data", "register", Verdict.WARNING, error.detail)
            return
        yield failed("init-data", "register", error)
        return
    yield Finding("init-data", "register", Verdict.GOOD, "the hardware vouches for it")


async def event_log(patient: Patient) -> AsyncIterator[Finding]:
    """The firmware's log and ours: present, readable, and in agreement with the registers (SR-26)."""
    settings = patient.config.attester
    path = Path(patient.sysroot) / CCEL
    if not path.exists():
        wanted = patient.detection.tee == "tdx"
        yield Finding(
            "event log",
            "CCEL",
            Verdict.BAD if wanted else Verdict.UNKNOWN,
            f"no /{CCEL}",
            _WITHOUT_CCEL if wanted else "",
        )
    else:
        for reason in problems(settings):  # what evidence carries leaves these parts out
            yield Finding("event log", "content", Verdict.BAD, reason, "A verifier's replay will not agree.")
        try:
            log = parse_log(shipped(settings) or b"")
        except AgentError as error:
            yield failed("event log", "CCEL", error)
            return
        yield Finding("event log", "CCEL", Verdict.GOOD, f"{len(log.events)} events")
        async for finding in _replayed(patient, replay(log, "sha384")):
            yield finding
    own = Path(settings.eventlog_dir) / LOG_NAME
    if own.exists():
        safe = own.stat().st_uid == os.geteuid() and not own.stat().st_mode & 0o077
        yield Finding(
            "event log",
            "runtime events",
            Verdict.GOOD if safe else Verdict.BAD,
            f"{own.stat().st_size} bytes" if safe else f"{own}: others than the agent may read or write it",
            "" if safe else "Restart the guest: somebody changed the file's mode.",
        )


async def _replayed(patient: Patient, values: dict[int, bytes]) -> AsyncIterator[Finding]:
    if patient.detection.tee != "tdx":
        return
    attester = DeviceAttester("tdx", patient.config.attester)
    measures = attester.registers
    if measures is None:
        return
    for register, value in sorted(values.items()):
        if not 1 <= register <= 4:
            continue
        read = partial(measures.read_register, patient.config.attester, register)
        try:
            held = await attester.ask(read, Deadline.after(patient.clock, _QUOTE))
        except AgentError as error:
            yield failed("event log", f"RTMR{register - 1}", error)
            return
        same = held == value
        yield Finding(
            "event log",
            f"RTMR{register - 1}",
            Verdict.GOOD if same else Verdict.BAD,
            "agrees with the log"
            if same
            else f"is {held.hex()[:16]}..., the log gives {value.hex()[:16]}...",
            "" if same else ErrorCode.EVENT_LOG_CORRUPT.meaning.hint,
        )
