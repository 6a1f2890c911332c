from __future__ import annotations

import errno
import hashlib
import hmac
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import Deadline
from agent.config.model import Attester as Settings
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.tee import chardev, csv
from agent.tee.csv_report import build_request, parse_answer, parse_certificate

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE = Deadline.after(FakeClock(), 30)
DATA = b"d" * 48
SERIAL = b"KPA123".ljust(64, b"\0")
KEY = struct.pack("<III", 0x1002, 4, 3) + b"x" * 32 + bytes(40) + b"y" * 32 + bytes(40)
SLOTS = b"".join(
    struct.pack("<II", usage, 4) + b"r" * 32 + bytes(40) + b"s" * 32 + bytes(40) + bytes(368)
    for usage in (0x1004, 0x1001)
)
USER = struct.pack("<H", 13) + b"HYGON-SSD-PEK".ljust(254, b"\0")
PEK = struct.pack("<IBBH", 1, 1, 3, 0) + KEY + USER + bytes(16) + bytes(608) + SLOTS


class Firmware:
    """The driver and the security processor behind it."""

    def __init__(self, *, registers: bool = True, wrong: str = "") -> None:
        self.registers = [bytes(32)] * 5 if registers else None
        self.wrong = wrong

    def __call__(self, descriptor: int, request: int, argument: bytearray) -> None:
        if request == 0xC0104401:
            self.report(*struct.unpack("<QI4x", argument))
        else:
            assert request == 0xC0184402
            self.register(argument)

    def register(self, argument: bytearray) -> None:
        address, size, command, _, _ = struct.unpack("<QQHHI", argument)
        if self.registers is None:
            raise OSError(errno.EINVAL, "no registers")
        asked = chardev.at(address, size)
        if command == 3:
            assert asked[:4] == b"\x1f\0\0\0"
            chardev.put(address + 4, b"".join(self.registers))
        elif command == 4:
            index, _, length = struct.unpack("<BBH", asked[:4])
            assert length == 32
            if index == 0:
                argument[20:24] = struct.pack("<I", 0x16)
                return
            value = self.registers[index] + asked[4:36]
            self.registers[index] = hashlib.new("sm3", value).digest()

    def report(self, address: int, size: int) -> None:
        assert size == 4096
        asked = chardev.at(address, size)
        data, mnonce, digest = asked[:64], asked[64:80], asked[80:112]
        assert digest == hashlib.new("sm3", data + mnonce).digest()
        extended = asked[112:128] == b"ATTESTATION_EXT\0"
        assert extended == (self.registers is not None)
        mask = bytes(4) if extended else b"\x5a\xa5\x01\xff"
        if self.wrong == "data":
            data = bytes(64)
        if self.wrong == "mnonce":
            mnonce = bytes(16)
        clear = bytes(64) + data + mnonce + b"m" * 32 + bytes(12)
        clear = clear if len(clear) == 188 else clear[:188]
        signer = self.masked(PEK, mask) + self.masked(SERIAL, mask) + b"R" * 32
        mac = hmac.digest(b"no" if self.wrong == "mac" else asked[64:80], signer, "sm3")
        head = self.masked(clear, mask) + mask
        head = head.ljust(1168 if extended else 336, b"\0")
        chardev.put(address, (head + signer + mac).ljust(4096, b"\0"))

    @staticmethod
    def masked(data: bytes, mask: bytes) -> bytes:
        return bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))


@pytest.fixture
def guest(tmp_path: Path) -> Settings:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "csv-guest").touch()
    return Settings(sysroot=str(tmp_path), eventlog_dir=str(tmp_path / "log"))


@pytest.mark.parametrize("registers", [True, False])
def test_evidence_is_what_the_verifier_reads(guest: Settings, *, registers: bool) -> None:
    found = msgspec.json.decode(csv.collect(guest, DATA, DEADLINE, ioctl=Firmware(registers=registers)))
    report = found["attestation_report"]
    assert bytes(report["magic"]) == (b"ATTESTATION_EXT\0" if registers else bytes(16))
    assert report["flags"] == (1 if registers else 0)
    start = 1168 if registers else 336
    assert bytes(report["data"])[start : start + 2084] == PEK
    assert bytes(report["data"])[start + 2084 : start + 2180] == SERIAL + bytes(32)
    assert bytes(found["serial_number"]) == SERIAL
    assert found["cc_eventlog"] is None
    assert set(found["cert_chain"]) == {"pek"}
    pek = found["cert_chain"]["pek"]
    assert pek["body"]["ver"] == 1
    assert pek["body"]["data"]["firmware"] == {"major": 1, "minor": 3}
    assert pek["body"]["data"]["pubkey"]["key"]["g"] == 3
    assert bytes(pek["body"]["data"]["pubkey"]["key"]["x"]) == b"x" * 32 + bytes(40)
    assert pek["body"]["data"]["uid_size"] == 13
    assert [slot["usage"] for slot in pek["sigs"]] == [0x1004, 0x1001]
    assert set(pek["sigs"][0]) == {"usage", "algo", "signature", "_reserved"}


@pytest.mark.parametrize("wrong", ["data", "mnonce", "mac"])
@pytest.mark.parametrize("registers", [True, False])
def test_an_answer_to_something_else_is_refused(guest: Settings, wrong: str, *, registers: bool) -> None:
    with pytest.raises(AgentError) as caught:
        csv.collect(guest, DATA, DEADLINE, ioctl=Firmware(registers=registers, wrong=wrong))
    assert caught.value.code is ErrorCode.EVIDENCE_FAILED


def test_registers_are_read_and_extended(guest: Settings) -> None:
    firmware = Firmware()
    assert csv.measurement_problem(guest, ioctl=firmware) is None
    csv.extend_register(guest, 4, b"e" * 32, ioctl=firmware)
    assert csv.read_register(guest, 4, ioctl=firmware) == hashlib.new("sm3", bytes(32) + b"e" * 32).digest()
    assert csv.read_register(guest, 3, ioctl=firmware) == bytes(32)
    with pytest.raises(AgentError) as caught:
        csv.extend_register(guest, 0, b"e" * 32, ioctl=firmware)
    assert "0x16" in caught.value.detail
    for bad in (5, -1, 256):
        with pytest.raises(AgentError):
            csv.read_register(guest, bad, ioctl=firmware)


def test_firmware_without_registers_says_so(guest: Settings) -> None:
    problem = csv.measurement_problem(guest, ioctl=Firmware(registers=False))
    assert problem is not None
    assert "registers" in problem


def test_pcr_numbers_map_as_upstream_does() -> None:
    wanted = {1: 1, 7: 1, 2: 2, 6: 2, 8: 3, 15: 3, 16: 4, 17: 4, 23: 4}
    assert {pcr: csv.register_of(pcr) for pcr in wanted} == wanted
    for bad in (0, 24, 256, -1):
        with pytest.raises(AgentError):
            csv.register_of(bad)


def test_without_sm3_the_reason_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str, data: bytes = b"") -> None:
        raise ValueError(name)

    monkeypatch.setattr(hashlib, "new", none)
    with pytest.raises(AgentError) as caught:
        build_request(bytes(64), bytes(16), extended=False)
    assert caught.value.code is ErrorCode.NOT_SUPPORTED
    assert "SM3" in caught.value.detail


@settings(max_examples=100)
@given(st.binary(max_size=4200) | st.integers(0, 2084).map(lambda cut: PEK[:cut] + b"z"), st.booleans())
def test_only_declared_errors_escape(data: bytes, extended: bool) -> None:
    for parse in (
        lambda: parse_certificate(data),
        lambda: parse_answer(data.ljust(4096, b"\0"), bytes(16), extended=extended),
    ):
        with suppress(AgentError):
            parse()
