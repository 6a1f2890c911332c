"""The log a TDX firmware leaves in the ACPI table CCEL, and the registers it leads to (attesters.md 17.8)."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

SIZE: Final = 64 * 1024
"""Bytes of the table's area; what the log leaves is 0xFF, as on recorded machines."""

_ZEROS: Final = bytes(48)
_SHA384: Final = b"\x0c\x00"
_EVENTS: Final = (
    (1, 0x8000000A, b"OVMF volume"),
    (1, 0x80000001, b"SecureBoot off"),
    (1, 0x00000004, bytes(4)),
    (2, 0x80000002, b"Boot0000"),
    (2, 0x00000004, bytes(4)),
    (2, 0x80000003, b"shim and bootloader"),
    (3, 0x0000000D, b"kernel /vmlinuz"),
    (3, 0x0000000D, b"initrd /kata-initrd"),
)
"""Register index (1 is RTMR0), event type, data."""


class Boot(msgspec.Struct, frozen=True):
    """What the firmware measured.

    Attributes:
        ccel: the table's area.
        rtmrs: RTMR0 to RTMR3 after boot, 48 bytes each; nobody extended RTMR3 yet.
    """

    ccel: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]


def boot() -> Boot:
    """Measure the same boot each time."""
    registers = [_ZEROS] * 4
    log = _spec_id()
    for index, kind, data in _EVENTS:
        digest = hashlib.sha384(data).digest()
        registers[index - 1] = hashlib.sha384(registers[index - 1] + digest).digest()
        log += b"".join(number.to_bytes(4, "little") for number in (index, kind, 1))
        log += _SHA384 + digest + len(data).to_bytes(4, "little") + data
    first, second, third, last = registers
    return Boot(log.ljust(SIZE, b"\xff"), (first, second, third, last))


def _spec_id() -> bytes:
    """TCG_EfiSpecIDEvent with SHA-384 as its only algorithm."""
    body = b"Spec ID Event03\0" + bytes(4) + bytes([0, 2, 0, 2]) + (1).to_bytes(4, "little")
    body += _SHA384 + (48).to_bytes(2, "little") + b"\0"
    head = bytes(4) + (3).to_bytes(4, "little") + bytes(20)
    return head + len(body).to_bytes(4, "little") + body
