"""Evidence of Hygon DCUs through /dev/mkfd (attesters.md 11).

Not tried on hardware here: the structures are those of Hygon's csv-rs, which verifiers use.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent.errors import AgentError, ErrorCode
from agent.tee.base import regularize
from agent.tee.chardev import Buffer, Device, Ioctl, read_file, system_ioctl
from agent.tee.devices import Collected, none_answered
from agent.tee.evidence.reader import Reader
from agent.tee.one_by_one import one_by_one

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.config.model import Attester as Settings

GET_REPORT: Final = 0xC0384D17
DEVICE: Final = "dev/mkfd"
NODES: Final = "sys/devices/virtual/kfd/kfd/topology/nodes"
USER_DATA: Final = 64
PAGE: Final = 4096
REPORT: Final = 396

_ARGUMENTS: Final = struct.Struct("<IIIxxxxQQQQQ")
_RESPONSE: Final = 32
_VERSION: Final = 1


class Signature(msgspec.Struct, frozen=True):
    """``sig``: both numbers little-endian, 72 bytes."""

    r: tuple[int, ...]
    s: tuple[int, ...]


class Body(msgspec.Struct, frozen=True):
    """``body``, 252 bytes in this order; byte strings are arrays of numbers on the wire."""

    version: int
    chip_id: tuple[int, ...]
    user_data: tuple[int, ...]
    measure: tuple[int, ...]
    reserved: tuple[int, ...]
    sig_usage: int
    sig_algo: int


class Report(msgspec.Struct, frozen=True):
    """One DCU's report."""

    body: Body
    sig: Signature


class _Evidence(msgspec.Struct, frozen=True):
    attestation_reports: tuple[msgspec.Raw, ...]


def parse_report(data: bytes) -> Report:
    """A report of 396 bytes.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    reader = Reader(data, "DCU report")
    body = Body(
        version=reader.u32("version"),
        chip_id=tuple(reader.take(16, "chip_id")),
        user_data=tuple(reader.take(USER_DATA, "user_data")),
        measure=tuple(reader.take(32, "measure")),
        reserved=tuple(reader.take(128, "reserved")),
        sig_usage=reader.u32("sig_usage"),
        sig_algo=reader.u32("sig_algo"),
    )
    signature = Signature(tuple(reader.take(72, "sig.r")), tuple(reader.take(72, "sig.s")))
    if reader.left:
        raise reader.wrong(f"{reader.left} bytes behind it")
    return Report(body, signature)


def collect(settings: Settings, report_data: bytes, deadline: Deadline) -> bytes:
    """Evidence of the DCUs that give some; see :func:`collect_devices`."""
    return collect_devices(settings, report_data, deadline).evidence


def collect_devices(settings: Settings, report_data: bytes, deadline: Deadline) -> Collected:
    """Reports over ``report_data``, cut or padded to 64 bytes, and what each DCU answered.

    Raises:
        AgentError: QUOTE_PATH_MISSING, DEVICE_FORBIDDEN, EVIDENCE_TIMEOUT, EVIDENCE_FAILED; only when no DCU
            gave evidence.
    """
    vendor = Dcus(settings.sysroot, regularize(report_data, USER_DATA))
    evidence, results = one_by_one(vendor, deadline)
    if not evidence:
        raise none_answered(results, "hygondcu")
    return Collected(msgspec.json.encode(_Evidence(tuple(msgspec.Raw(each) for each in evidence))), results)


class Dcus:
    """Satisfies ``agent.tee.one_by_one.Vendor``.

    Args:
        sysroot: prefix of device and sysfs.
        user_data: 64 bytes.
        ioctl: injected in tests.
    """

    label = "DCU"

    def __init__(self, sysroot: str, user_data: bytes, *, ioctl: Ioctl = system_ioctl) -> None:
        self._root = sysroot
        self._user_data = user_data
        self._ioctl = ioctl
        self._ids: list[int] = []

    def open(self) -> int:
        """Read the topology; the number of DCUs."""
        nodes = Path(self._root) / NODES
        try:
            names = sorted(int(path.name) for path in nodes.iterdir() if path.name.isdecimal())
        except OSError:
            raise AgentError(ErrorCode.QUOTE_PATH_MISSING, f"hygondcu: no /{NODES}") from None
        ids = [self._id(node) for node in names]
        self._ids = [each for each in ids if each]  # a node with the id 0 is a CPU
        return len(self._ids)

    def _id(self, node: int) -> int:
        text = read_file(self._root, f"{NODES}/{node}/gpu_id", 64, "hygondcu").strip()
        return int(text) if text.isdigit() else 0

    def name(self, index: int) -> str:
        """The kernel's id."""
        return f"id {self._ids[index]}"

    def collect(self, index: int) -> bytes:
        """One report as JSON."""
        request, response = Buffer(self._user_data, PAGE), Buffer(size=PAGE)
        argument = bytearray(
            _ARGUMENTS.pack(self._ids[index], 0, _VERSION, request.address, PAGE, response.address, PAGE, 0)
        )
        with Device(self._root, DEVICE, "hygondcu", ioctl=self._ioctl) as device:
            device.ask(GET_REPORT, argument, "attestation")
        return msgspec.json.encode(self._checked(response.content))

    def _checked(self, response: bytes) -> Report:
        size = int.from_bytes(response[:4], "little")
        if size not in {0, REPORT}:  # the size is not filled in by every firmware
            raise AgentError(ErrorCode.EVIDENCE_FAILED, f"a report of {size} bytes")
        report = parse_report(response[_RESPONSE : _RESPONSE + REPORT])
        if bytes(report.body.user_data) != self._user_data:
            raise AgentError(ErrorCode.EVIDENCE_FAILED, "a report that is not over our data")
        return report
