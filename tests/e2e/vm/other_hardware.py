"""What stands behind the ioctls of Hygon CSV, IBM Secure Execution and AWS Nitro; nothing here is signed."""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, field
from errno import EINVAL
from typing import TYPE_CHECKING, Final

from tests.e2e.vm.cbor import encode
from tests.e2e.vm.wire import Answer

if TYPE_CHECKING:
    from tests.e2e.vm.wire import Ask

CUID: Final = b"configuration id"
EXECUTED: Final = 0x0001_0000
"""uv_rc 1, uv_rrc 0."""

SERIAL: Final = b"KPA-DEVKIT".ljust(64, b"\0")

_PEK: Final = 2084


@dataclass(slots=True)
class OtherHardware:
    """One machine of each.

    Attributes:
        registers: CSV's, five of 32 bytes.
        uv_code: uv_rc and uv_rrc of the next attestations.
    """

    registers: list[bytes] = field(default_factory=lambda: [bytes(32)] * 5)
    uv_code: int = EXECUTED

    def csv(self, ask: Ask) -> Answer:
        """A report of version 2 (attesters.md 10)."""
        data, mnonce, digest = ask.data[:64], ask.data[64:80], ask.data[80:112]
        if digest != hashlib.new("sm3", data + mnonce).digest() or len(ask.data) != 4096:
            return Answer(EINVAL)
        report = bytearray(4096)
        report[64:144] = data + mnonce
        for number, value in enumerate(self.registers):
            report[208 + 32 * number : 240 + 32 * number] = value
        signer = _pek() + SERIAL + bytes(32)
        report[1168 : 1168 + len(signer)] = signer
        report[3348:3380] = hmac.digest(mnonce, signer, "sm3")
        return Answer(blobs=[bytes(report)])

    def csv_registers(self, ask: Ask) -> Answer:
        """Status (1), read (3), extend (4)."""
        if ask.number == 1:
            return Answer(blobs=[ask.data])
        if ask.number == 3:
            return Answer(blobs=[ask.data[:4] + b"".join(self.registers)])
        index, _, size = struct.unpack_from("<BBH", ask.data)
        if not index or size != 32:
            return Answer(blobs=[ask.data], info=0x16)
        self.registers[index] = hashlib.new("sm3", self.registers[index] + ask.data[4:36]).digest()
        return Answer(blobs=[ask.data])

    def uv(self, ask: Ask) -> Answer:
        """A measurement over the request and the 64 bytes of user data in front of it."""
        return Answer(blobs=[measurement(ask.data[:64], ask.data[64:]), b"a" * 32, CUID], info=self.uv_code)

    def nsm(self, ask: Ask) -> Answer:
        """A document whose payload is the request."""
        document = encode([b"\xa1\x01\x38\x22", {}, ask.data, bytes(96)])
        return Answer(blobs=[encode({"Attestation": {"document": document}})])


def measurement(user_data: bytes, request: bytes) -> bytes:
    """64 bytes, as the ultravisor's."""
    return hmac.digest(b"the ultravisor's", request + user_data, "sha512")


def _pek() -> bytes:
    key = struct.pack("<III", 0x1002, 4, 3) + bytes(144)
    user = struct.pack("<H", 13) + b"HYGON-SSD-PEK".ljust(254, b"\0")
    slots = b"".join(struct.pack("<II", usage, 4) + bytes(512) for usage in (0x1004, 0x1001))
    pek = struct.pack("<IBBH", 1, 1, 3, 0) + key + user + bytes(16 + 608) + slots
    assert len(pek) == _PEK
    return pek
