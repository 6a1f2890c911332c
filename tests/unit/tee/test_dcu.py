from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.tee import chardev
from agent.tee.dcu import Dcus, parse_report

if TYPE_CHECKING:
    from pathlib import Path

USER = bytes(range(64))
BODY = struct.pack("<I", 1) + b"c" * 16 + USER + b"m" * 32 + bytes(128) + struct.pack("<II", 0x1004, 4)
REPORT = BODY + b"r" * 72 + b"s" * 72


class Driver:
    def __init__(self, report: bytes = REPORT, size: int = 396) -> None:
        self.asked: list[int] = []
        self.answer = struct.pack("<I28x", size) + report

    def __call__(self, descriptor: int, request: int, argument: bytearray) -> None:
        assert request == 0xC0384D17
        assert len(argument) == 56
        fields = struct.unpack("<IIIxxxxQQQQQ", argument)
        identity, command, version, asked, size, answer, room, _ = fields
        assert (command, version, size, room) == (0, 1, 4096, 4096)
        assert chardev.at(asked, 64) == USER
        self.asked.append(identity)
        chardev.put(answer, self.answer)


@pytest.fixture
def root(tmp_path: Path) -> str:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "mkfd").touch()
    for node, identity in ((0, "0\n"), (1, "4711\n"), (2, "4712\n"), (10, "4713\n")):
        folder = tmp_path / f"sys/devices/virtual/kfd/kfd/topology/nodes/{node}"
        folder.mkdir(parents=True)
        (folder / "gpu_id").write_text(identity)
    return str(tmp_path)


def test_each_dcu_is_asked_by_its_id(root: str) -> None:
    driver = Driver()
    dcus = Dcus(root, USER, ioctl=driver)
    assert dcus.open() == 3  # the node with the id 0 is a CPU
    assert [dcus.name(index) for index in range(3)] == ["id 4711", "id 4712", "id 4713"]
    found = msgspec.json.decode(dcus.collect(2))
    assert driver.asked == [4713]
    assert set(found) == {"body", "sig"}
    assert found["body"]["version"] == 1
    assert bytes(found["body"]["user_data"]) == USER
    assert (found["body"]["sig_usage"], found["body"]["sig_algo"]) == (0x1004, 4)
    assert bytes(found["sig"]["r"]) == b"r" * 72
    assert len(found["body"]["reserved"]) == 128


@pytest.mark.parametrize(
    "driver", [Driver(bytes(396)), Driver(size=12), Driver(REPORT.replace(USER, bytes(64)))]
)
def test_a_report_that_is_not_ours_is_refused(root: str, driver: Driver) -> None:
    dcus = Dcus(root, USER, ioctl=driver)
    dcus.open()
    with pytest.raises(AgentError) as caught:
        dcus.collect(0)
    assert caught.value.code is ErrorCode.EVIDENCE_FAILED


def test_without_the_driver_the_path_is_missing(tmp_path: Path) -> None:
    with pytest.raises(AgentError) as caught:
        Dcus(str(tmp_path), USER).open()
    assert caught.value.code is ErrorCode.QUOTE_PATH_MISSING


@settings(max_examples=100)
@given(st.binary(max_size=420) | st.integers(0, 396).map(lambda cut: REPORT[:cut]))
def test_only_the_declared_error_escapes(data: bytes) -> None:
    with suppress(AgentError):
        parse_report(data)
