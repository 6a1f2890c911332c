from __future__ import annotations

import struct
from base64 import b64decode
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.clock import Deadline
from agent.config.model import Attester as Settings
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.tee import chardev, sgx
from agent.tee.attesters import DeviceAttester

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE = Deadline.after(FakeClock(), 30)
QUOTE = bytes(range(256)) * 18


def gramine(root: Path, kind: bytes = b"dcap", quote: bytes = QUOTE) -> Settings:
    folder = root / "dev" / "attestation"
    folder.mkdir(parents=True)
    for name, content in {"attestation_type": kind, "user_report_data": b"", "quote": quote}.items():
        (folder / name).write_bytes(content)
    return Settings(sysroot=str(root))


def test_gramine_signs_padded_report_data(tmp_path: Path) -> None:
    found = msgspec.json.decode(sgx.collect(gramine(tmp_path), b"d" * 48, DEADLINE))
    assert b64decode(found["quote"]) == QUOTE
    assert (tmp_path / "dev/attestation/user_report_data").read_bytes() == b"d" * 48 + bytes(16)


@pytest.mark.parametrize(
    ("kind", "quote", "data", "code"),
    [
        (b"none", QUOTE, b"", ErrorCode.QUOTE_PATH_MISSING),
        (b"dcap\n", QUOTE, b"", ErrorCode.QUOTE_PATH_MISSING),
        (b"dcap", b"short", b"", ErrorCode.EVIDENCE_FAILED),
        (b"dcap", bytes(sgx.QUOTE_MAX + 1), b"", ErrorCode.EVIDENCE_FAILED),
        (b"dcap", QUOTE, bytes(65), ErrorCode.INVALID_REQUEST),
    ],
)
def test_what_is_refused(tmp_path: Path, kind: bytes, quote: bytes, data: bytes, code: ErrorCode) -> None:
    with pytest.raises(AgentError) as caught:
        sgx.collect(gramine(tmp_path, kind, quote), data, DEADLINE)
    assert caught.value.code is code


def test_a_libos_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AgentError) as caught:
        sgx.collect(Settings(sysroot=str(tmp_path)), b"", DEADLINE)
    assert caught.value.code is ErrorCode.QUOTE_PATH_MISSING
    assert "Gramine" in caught.value.detail


def test_occlum_is_asked_by_ioctl(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "sgx").touch()

    def occlum(descriptor: int, request: int, argument: bytearray) -> None:
        if request == 0x80047307:
            argument[:] = struct.pack("<I", 5000)
            return
        assert request == 0xC0187308
        data, size, quote = struct.unpack("<QQQ", argument)
        assert chardev.at(data, 64) == b"d" * 64
        assert chardev.at(size, 4) == struct.pack("<I", 5000)
        chardev.put(quote, QUOTE)
        chardev.put(size, struct.pack("<I", len(QUOTE)))

    found = sgx.collect(Settings(sysroot=str(tmp_path)), b"d" * 64, DEADLINE, ioctl=occlum)
    assert b64decode(msgspec.json.decode(found)["quote"]) == QUOTE


async def test_the_attester_asks_the_libos_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> None:
        raise AssertionError("a process below a LibOS is another enclave")

    monkeypatch.setattr("subprocess.Popen", none)
    attester = DeviceAttester("sgx", gramine(tmp_path))
    found = msgspec.json.decode(await attester.collect(b"d" * 48, DEADLINE))
    assert b64decode(found["quote"]) == QUOTE
