"""A SEV guest driver made of ctypes, and the reports it gives."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass, field

from agent.tee import sev_guest

DATA = bytes(range(64))


def report(user_data: bytes = DATA, host_data: bytes = bytes(32), key_info: int = 0) -> bytes:
    raw = bytearray(sev_guest.REPORT_SIZE)
    raw[0:4] = (3).to_bytes(4, "little")
    raw[0x50:0x90] = user_data
    raw[0xC0:0xE0] = host_data
    raw[0x34] = 1
    raw[0x48] = key_info
    raw[0x188:0x18B] = bytes([0x19, 0x11, 1])
    raw[0x1A0:0x1E0] = b"\x07" * 64
    return bytes(raw)


def response(status: int = 0, size: int = sev_guest.REPORT_SIZE, content: bytes = b"") -> bytes:
    return (struct.pack("<II24x", status, size) + content).ljust(sev_guest.RESPONSE_SIZE, b"\0")


@dataclass
class Driver:
    """Behaves as sev-guest.c: reads and writes our memory by the addresses in the request."""

    table: bytes = b""
    failures: list[tuple[int, int]] = field(default_factory=list)
    status: int = 0
    host_data: bytes = bytes(32)
    wanted: int | None = None
    key_info: int = 0
    seen: list[tuple[int, bytes]] = field(default_factory=list)

    def ioctl(self, opened: int, command: int, asked: ctypes.Structure) -> int:
        os.fstat(opened)
        raw = (ctypes.c_char * 32).from_buffer(asked)
        version, request_at, response_at, preset = struct.unpack("<B7xQQQ", raw.raw)
        assert (version, preset) == (1, 0xFF)
        size = 112 if command == sev_guest.GET_EXT_REPORT else 96
        request = (ctypes.c_char * size).from_address(request_at)
        self.seen.append((command, request.raw))
        if self.failures:
            code, exitinfo2 = self.failures.pop(0)
            ctypes.memmove(ctypes.addressof(raw) + 24, exitinfo2.to_bytes(8, "little"), 8)
            raise OSError(code, os.strerror(code))
        if size == 112 and not self._table(request, raw):
            raise OSError(errno.EIO, "certificate buffer")
        answer = response(self.status, content=report(request.raw[:64], self.host_data, self.key_info))
        ctypes.memmove(response_at, answer, len(answer))
        return 0

    def _table(self, request: ctypes.Array[ctypes.c_char], raw: ctypes.Array[ctypes.c_char]) -> bool:
        address, room = struct.unpack("<QI", request.raw[96:108])
        needed = self.wanted if self.wanted is not None else len(self.table)
        if needed > room:
            ctypes.memmove(ctypes.addressof(request) + 104, needed.to_bytes(4, "little"), 4)
            ctypes.memmove(ctypes.addressof(raw) + 24, (1 << 32).to_bytes(8, "little"), 8)
            return False
        if room:
            assert address % 4096 == 0
            ctypes.memmove(address, self.table, len(self.table))
        else:
            assert address == (1 << 64) - 1
        return True
