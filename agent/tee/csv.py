"""Evidence and registers of Hygon CSV through /dev/csv-guest (attesters.md 10, 17.4).

Not tried on hardware here: the structures are those of Hygon's csv-rs, which verifiers use. The certificates
above the PEK are left to the verifier, which finds them by the serial number.
"""

from __future__ import annotations

import os
import struct
from base64 import b64encode
from typing import TYPE_CHECKING, Final

import msgspec

from agent.errors import AgentError, ErrorCode
from agent.tee.base import pad
from agent.tee.chardev import Buffer, Device, Ioctl, system_ioctl
from agent.tee.csv_report import (
    EXTENDED,
    MAGIC,
    MNONCE,
    PAGE,
    REPORT_DATA,
    Certificate,
    build_request,
    parse_answer,
    sm3,
)

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.config.model import Attester as Settings

DEVICE: Final = "dev/csv-guest"
GET_REPORT: Final = 0xC0104401
REGISTERS: Final = 0xC0184402
ALGORITHM: Final = "sm3"
FIRMWARE_LOG: Final = True
"""See ``agent.tee.tdx``; the verifier wants registers 1 to 4 (attesters.md 21)."""

STATUS, READ, EXTEND = 1, 3, 4
"""Subcommands of :data:`REGISTERS`."""

_REPORT_ARGUMENT: Final = struct.Struct("<QI4x")
_REGISTER_ARGUMENT: Final = struct.Struct("<QQHHI")
_COUNT: Final = 5
_SIZE: Final = 32
_ALL: Final = (1 << _COUNT) - 1
_PCRS: Final = 24


class _Report(msgspec.Struct, frozen=True):
    magic: tuple[int, ...]
    flags: int
    data: tuple[int, ...]


class _Chain(msgspec.Struct, frozen=True):
    pek: Certificate


class _Evidence(msgspec.Struct, frozen=True):
    attestation_report: _Report
    cert_chain: _Chain
    serial_number: tuple[int, ...]
    cc_eventlog: str | None


def collect(
    settings: Settings, report_data: bytes, deadline: Deadline, *, ioctl: Ioctl = system_ioctl
) -> bytes:
    """A V2 report where the firmware has registers, else V1, over the data padded to 64 bytes.

    Raises:
        AgentError: INVALID_REQUEST (too long), QUOTE_PATH_MISSING, DEVICE_FORBIDDEN, EVIDENCE_FAILED,
            EVIDENCE_MALFORMED, NOT_SUPPORTED (no SM3).
    """
    del deadline  # the process is killed
    data, mnonce = pad(report_data, REPORT_DATA), os.urandom(MNONCE)
    with Device(settings.sysroot, DEVICE, "csv", flags=os.O_RDONLY, ioctl=ioctl) as device:
        extended = _has_registers(device)
        page = Buffer(build_request(data, mnonce, extended=extended))
        device.ask(GET_REPORT, bytearray(_REPORT_ARGUMENT.pack(page.address, PAGE)), "report")
    report = parse_answer(page.content, mnonce, extended=extended)
    if report.report_data != data:
        raise AgentError(ErrorCode.EVIDENCE_FAILED, "csv: a report that is not over our data")
    magic, flags = (MAGIC, EXTENDED) if extended else (bytes(len(MAGIC)), 0)
    return msgspec.json.encode(
        _Evidence(
            _Report(tuple(magic), flags, tuple(report.data)),
            _Chain(report.pek),
            tuple(report.serial),
            _event_log(settings),
        )
    )


def _event_log(settings: Settings) -> str | None:
    from agent.tee.eventlog import shipped  # noqa: PLC0415 - not needed for registers

    log = shipped(settings)
    return None if log is None else b64encode(log).decode()


# --- registers: satisfies agent.tee.base.Measures ---------------------------------------------------


def measurement_problem(settings: Settings, *, ioctl: Ioctl = system_ioctl) -> str | None:
    """Why registers cannot be read and extended in this guest; None when they can."""
    try:
        sm3(b"")
        with Device(settings.sysroot, DEVICE, "csv", flags=os.O_RDONLY, ioctl=ioctl) as device:
            found = _has_registers(device)
    except AgentError as error:
        return error.detail
    return None if found else "csv: this firmware has no runtime measurement registers"


def register_of(pcr: int) -> int:
    """The register that a PCR number means (attesters.md 17.4); the event log records the same.

    Raises:
        AgentError: INVALID_REQUEST; register 0 is the launch digest.
    """
    if not 0 < pcr < _PCRS:
        raise AgentError(ErrorCode.INVALID_REQUEST, f"csv: PCR {pcr} cannot be extended; there are 1 to 23")
    if pcr in {1, 7}:
        return 1
    return 2 if pcr < 7 else 3 if pcr < 16 else 4


def read_register(settings: Settings, register: int, *, ioctl: Ioctl = system_ioctl) -> bytes:
    """The value of a register, 32 bytes."""
    # All at once: where the driver puts a single one is written nowhere.
    buffer = Buffer(_ALL.to_bytes(4, "little"), 4 + _COUNT * _SIZE)
    with Device(settings.sysroot, DEVICE, "csv", flags=os.O_RDONLY, ioctl=ioctl) as device:
        _registers(device, READ, buffer, 4 + _COUNT * _SIZE, "register read")
    start = 4 + _checked(register) * _SIZE
    return buffer.content[start : start + _SIZE]


def extend_register(settings: Settings, register: int, digest: bytes, *, ioctl: Ioctl = system_ioctl) -> None:
    """Make the register SM3(register || digest); the digest has 32 bytes."""
    if len(digest) != _SIZE:
        raise AgentError(ErrorCode.INVALID_REQUEST, f"csv: a digest of {len(digest)} bytes")
    body = bytes([_checked(register), 0]) + _SIZE.to_bytes(2, "little") + digest
    with Device(settings.sysroot, DEVICE, "csv", flags=os.O_RDONLY, ioctl=ioctl) as device:
        _registers(device, EXTEND, Buffer(body), len(body), "register extend")


def _checked(register: int) -> int:
    if not 0 <= register < _COUNT:
        raise AgentError(ErrorCode.INVALID_REQUEST, f"csv: there is no register {register}")
    return register


def _has_registers(device: Device) -> bool:
    """Whether the firmware answers their status: then it makes V2 reports too."""
    try:
        _registers(device, STATUS, Buffer(size=3), 3, "register status")
    except AgentError as error:
        if error.code is ErrorCode.DEVICE_FORBIDDEN:
            raise
        return False
    return True


def _registers(device: Device, subcommand: int, buffer: Buffer, size: int, what: str) -> None:
    argument = bytearray(_REGISTER_ARGUMENT.pack(buffer.address, size, subcommand, 0, 0))
    device.ask(REGISTERS, argument, what)
    if problem := _REGISTER_ARGUMENT.unpack(argument)[4]:
        raise AgentError(ErrorCode.EVIDENCE_FAILED, f"csv: {what}: firmware error {problem:#x}")
