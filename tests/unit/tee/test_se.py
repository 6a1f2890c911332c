from __future__ import annotations

import struct
from base64 import b64encode
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
from agent.tee import chardev, se

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE = Deadline.after(FakeClock(), 30)
DIGEST = bytes(range(64))
MEMBERS: dict[str, object] = {
    "request_blob": b64encode(b"arcb").decode(),
    "measurement_size": 64,
    "additional_size": 48,
    "encr_measurement_key": b64encode(b"key").decode(),
    "encr_request_nonce": b64encode(b"nonce").decode(),
    "image_hdr_tags": b64encode(b"t" * 208).decode(),
    "runtime_data_digest": b64encode(DIGEST).decode(),
}
DOCUMENT = msgspec.json.encode(MEMBERS)


class Ultravisor:
    """Answers the ioctl as the kernel's driver does, big-endian."""

    def __init__(self, *, code: int = 1, additional: int = 40) -> None:
        self.code = code
        self.additional = additional
        self.user_data = b""

    def __call__(self, descriptor: int, request: int, argument: bytearray) -> None:
        assert request == 0xC0407501
        assert len(argument) == 64
        flags, _, _, address, length = struct.unpack(">IHHQI", argument[:20])
        assert (flags, length) == (0, 0x138)
        assert not any(argument[20:])
        body = chardev.at(address, length)
        arcb, measurement, additional = struct.unpack(">QQQ", body[:24])
        sizes = struct.unpack(">IIIHH", body[0x128:])
        assert sizes == (4, 64, 48, 64, 0)
        assert chardev.at(arcb, 4) == b"arcb"
        self.user_data = body[0x18 : 0x18 + 64]
        chardev.put(measurement, b"m" * 64)
        chardev.put(additional, b"a" * 40)
        chardev.put(address + 0x118, b"u" * 16)
        chardev.put(address + 0x130, struct.pack(">I", self.additional))
        argument[4:8] = struct.pack(">HH", self.code, 0x0102)


@pytest.fixture
def guest(tmp_path: Path) -> Settings:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "uv").touch()
    return Settings(sysroot=str(tmp_path))


def test_evidence_is_what_the_verifier_reads(guest: Settings) -> None:
    ultravisor = Ultravisor()
    found = msgspec.json.decode(se.collect(guest, DOCUMENT, DEADLINE, ioctl=ultravisor))
    assert ultravisor.user_data == DIGEST
    assert found == {
        "measurement": b64encode(b"m" * 64).decode(),
        "additional_data": b64encode(b"a" * 40).decode(),
        "user_data": b64encode(DIGEST).decode(),
        "cuid": b64encode(b"u" * 16).decode(),
        "encr_measurement_key": MEMBERS["encr_measurement_key"],
        "encr_request_nonce": MEMBERS["encr_request_nonce"],
        "image_hdr_tags": MEMBERS["image_hdr_tags"],
    }


def test_a_shorter_digest_is_padded(guest: Settings) -> None:
    ultravisor = Ultravisor()
    short = msgspec.json.encode(MEMBERS | {"runtime_data_digest": b64encode(b"d" * 48).decode()})
    se.collect(guest, short, DEADLINE, ioctl=ultravisor)
    assert ultravisor.user_data == b"d" * 48 + bytes(16)


def test_the_ultravisors_codes_are_told(guest: Settings) -> None:
    with pytest.raises(AgentError) as caught:
        se.collect(guest, DOCUMENT, DEADLINE, ioctl=Ultravisor(code=0x0105))
    assert caught.value.code is ErrorCode.EVIDENCE_FAILED
    assert "0x0105" in caught.value.detail
    assert "0x0102" in caught.value.detail


def test_without_additional_data_there_is_no_evidence(guest: Settings) -> None:
    with pytest.raises(AgentError) as caught:
        se.collect(guest, DOCUMENT, DEADLINE, ioctl=Ultravisor(additional=0))
    assert caught.value.code is ErrorCode.EVIDENCE_FAILED


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("runtime_data_digest", None),
        ("runtime_data_digest", b64encode(bytes(65)).decode()),
        ("request_blob", ""),
        ("measurement_size", 0),
        ("measurement_size", 0x8001),
        ("additional_size", -1),
        ("image_hdr_tags", b64encode(bytes(207)).decode()),
        ("encr_request_nonce", "not base64!"),
    ],
)
def test_a_request_that_is_not_one_is_refused(guest: Settings, member: str, value: object) -> None:
    with pytest.raises(AgentError) as caught:
        se.collect(guest, msgspec.json.encode(MEMBERS | {member: value}), DEADLINE, ioctl=Ultravisor())
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert member in caught.value.detail


def test_each_errno_has_its_reason(guest: Settings) -> None:
    def busy(descriptor: int, request: int, argument: bytearray) -> None:
        raise BlockingIOError(16, "busy")

    with pytest.raises(AgentError) as caught:
        se.collect(guest, DOCUMENT, DEADLINE, ioctl=busy)
    assert caught.value.code is ErrorCode.DEVICE_BUSY
    with pytest.raises(AgentError) as missing:
        se.collect(Settings(sysroot="/nowhere"), DOCUMENT, DEADLINE)
    assert missing.value.code is ErrorCode.QUOTE_PATH_MISSING


@settings(max_examples=150)
@given(st.binary(max_size=64) | st.binary(max_size=40).map(lambda cut: DOCUMENT[: len(cut) * 7] + cut))
def test_only_the_declared_error_escapes(document: bytes) -> None:
    with suppress(AgentError):
        se.parse_request(document)
