"""A firmware's event log where a TD's kernel finds one: in memory, and in an ACPI table that says where."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

ADDRESS: Final = 0x2000_0000
SIZE: Final = 0x10000

_TDX: Final = 2
_EVENTS: Final = (
    # measurement register (RTMR + 1), event type, data
    (1, 0x80000001, b"SecureBoot"),
    (1, 0x00000004, bytes(4)),
    (2, 0x80000003, b"shim"),
    (2, 0x00000004, bytes(4)),
    (3, 0x0000000D, b"kernel command line"),
)


@dataclass(frozen=True, slots=True)
class FirmwareLog:
    """One log.

    Attributes:
        content: CCEL (attesters.md 17.8).
        rtmrs: what the firmware extended.
    """

    content: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]

    def devices(self, folder: Path) -> list[str]:
        """Arguments that put the log into QEMU's memory and an ACPI table CCEL in front of it."""
        table, memory = folder / "ccel.table", folder / "ccel.log"
        table.write_bytes(struct.pack("<BBHQQ", _TDX, 0, 0, SIZE, ADDRESS))
        memory.write_bytes(self.content.ljust(SIZE, b"\xff"))
        return [
            *("-acpitable", f"sig=CCEL,rev=1,oem_id=DEVKIT,oem_table_id=DEVKITTD,data={table}"),
            *("-device", f"loader,file={memory},addr={ADDRESS:#x},force-raw=on"),
        ]

    @property
    def append(self) -> str:
        """Keeps the kernel from using that memory, as the firmware's memory map does."""
        return f"memmap={SIZE:#x}${ADDRESS:#x}"


def firmware_log() -> FirmwareLog:
    """A few events as a TD's firmware measures them."""
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBIHHB", 0, 0, 2, 0, 2, 1, 0x000C, 48, 0)
    content = struct.pack("<II20sI", 1, 3, bytes(20), len(spec)) + spec
    rtmrs = [bytes(48)] * 4
    for register, kind, data in _EVENTS:
        digest = hashlib.sha384(data).digest()
        content += (
            struct.pack("<IIIH", register, kind, 1, 0x000C) + digest + struct.pack("<I", len(data)) + data
        )
        rtmrs[register - 1] = hashlib.sha384(rtmrs[register - 1] + digest).digest()
    return FirmwareLog(content, (rtmrs[0], rtmrs[1], rtmrs[2], rtmrs[3]))
