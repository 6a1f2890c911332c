"""TDX: registers, TDREPORT, and the quote generation service's messages."""

from __future__ import annotations

import errno
import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import Deadline
from agent.config import limits
from agent.config.model import Attester
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.tee import tdx, tdx_qgs, tdx_report, tdx_sysfs

if TYPE_CHECKING:
    from pathlib import Path

DATA = bytes(range(64))


def answer(
    quote: bytes = b"quote", *, code: int = 0, kind: int = 1, major: int = 1, identity: bytes = b""
) -> bytes:
    body = struct.pack("<II", len(identity), len(quote)) + identity + quote
    return struct.pack("<HHIII", major, 1, kind, 16 + len(body), code) + body


def driver(
    opened: int, command: int, exchange: bytearray, *, config_id: bytes = bytes(48), said: bytes = b"\x81"
) -> int:
    os.fstat(opened)
    assert command == 0xC4405401
    assert len(exchange) == 1088
    report = bytearray(1024)
    report[0:1] = said
    report[128:192] = exchange[:64]
    report[576:624] = config_id
    exchange[64:] = report
    return 0


def guest(tmp_path: Path) -> Attester:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "tdx_guest").symlink_to("/dev/null")  # a device; the ioctl is ours
    return Attester(sysroot=str(tmp_path))


@pytest.mark.parametrize(
    ("pcrs", "register"),
    [((1, 7), 1), ((2, 3, 4, 5, 6), 2), (tuple(range(8, 16)), 3), (tuple(range(16, 24)), 4)],
)
def test_pcrs_have_their_registers(pcrs: tuple[int, ...], register: int) -> None:
    assert {tdx.register_of(pcr) for pcr in pcrs} == {register}


@pytest.mark.parametrize("pcr", [0, -1, 24, 256, 2**32, 2**64 - 1])
def test_pcrs_without_a_register_are_refused(pcr: int) -> None:
    with pytest.raises(AgentError) as error:
        tdx.register_of(pcr)
    assert error.value.code is ErrorCode.INVALID_REQUEST


def test_a_request_has_intels_layout() -> None:
    asked = tdx_qgs.request(bytes(1024))
    assert asked[:24] == bytes.fromhex("0100 0100 00000000 18040000 00000000 00040000 00000000")
    assert len(asked) == 0x418


def test_the_quote_is_taken_out() -> None:
    assert tdx_qgs.quote_of(answer(b"Q" * 5006, identity=bytes(16))) == b"Q" * 5006


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (answer(code=0x12001), ErrorCode.EVIDENCE_FAILED),
        (answer(code=0xE011), ErrorCode.EVIDENCE_FAILED),
        (answer(kind=0), ErrorCode.EVIDENCE_MALFORMED),
        (answer(major=2), ErrorCode.EVIDENCE_MALFORMED),
        (answer(b""), ErrorCode.EVIDENCE_MALFORMED),
        (answer() + b"x", ErrorCode.EVIDENCE_MALFORMED),
        (answer()[:-1], ErrorCode.EVIDENCE_MALFORMED),
        (b"", ErrorCode.EVIDENCE_MALFORMED),
    ],
)
def test_other_answers_are_refused(message: bytes, code: ErrorCode) -> None:
    with pytest.raises(AgentError) as error:
        tdx_qgs.quote_of(message)
    assert error.value.code is code


@settings(max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 40), st.integers(0, 255))
def test_property_only_the_declared_errors_escape(data: bytes, at: int, value: int) -> None:
    changed = bytearray(answer(b"Q" * 20, identity=b"i"))
    changed[min(at, len(changed) - 1)] = value
    for message in (data, bytes(changed), bytes(changed[:at])):
        with suppress(AgentError):
            assert tdx_qgs.quote_of(message)


def test_a_tdreport_comes_from_the_driver(tmp_path: Path) -> None:
    here = guest(tmp_path)
    report = tdx_report.read(here.sysroot, DATA, driver)
    assert report[128:192] == DATA
    assert len(report) == 1024


def test_a_driver_that_did_nothing_is_noticed(tmp_path: Path) -> None:
    here = guest(tmp_path)
    with pytest.raises(AgentError, match="report data"):
        tdx_report.read(here.sysroot, DATA, lambda *_: 0)


def test_an_interrupted_driver_is_asked_again(tmp_path: Path) -> None:
    here = guest(tmp_path)
    failures = [InterruptedError(errno.EINTR, "")] * 3

    def interrupted(opened: int, command: int, exchange: bytearray) -> int:
        if failures:
            raise failures.pop()
        return driver(opened, command, exchange)

    assert tdx_report.read(here.sysroot, DATA, interrupted)[128:192] == DATA


def test_no_driver_is_named(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="tdx-guest") as error:
        tdx_report.read(str(tmp_path), DATA)
    assert error.value.code is ErrorCode.QUOTE_PATH_MISSING


def test_a_driver_that_refuses(tmp_path: Path) -> None:
    here = guest(tmp_path)
    with pytest.raises(AgentError) as error:
        tdx_report.read(here.sysroot, DATA)  # /dev/null knows no ioctl
    assert error.value.code is ErrorCode.EVIDENCE_FAILED


def test_a_guest_without_configfs_tsm_says_what_a_quote_needs(tmp_path: Path) -> None:
    here = guest(tmp_path)
    with pytest.raises(AgentError) as error:
        tdx.collect(here, DATA[:48], _soon())
    assert error.value.code is ErrorCode.QUOTE_PATH_MISSING
    assert "/dev/tdx_guest is there, but a quote needs configfs-tsm" in error.value.detail
    assert "tdx_quote_vsock" in error.value.detail


def test_report_data_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AgentError) as error:
        tdx.collect(Attester(sysroot=str(tmp_path)), bytes(65), _soon())
    assert error.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("digest", [b"\x11" * 32, b"\x22" * 48, b"\x33" * 64])
def test_init_data_is_compared_with_the_drivers_mrconfigid(tmp_path: Path, digest: bytes) -> None:
    here = guest(tmp_path)

    def ioctl(opened: int, command: int, exchange: bytearray) -> int:
        return driver(opened, command, exchange, config_id=digest[:48].ljust(48, b"\0"))

    tdx.bind_init_data(here, digest, ioctl=ioctl)
    with pytest.raises(AgentError) as error:
        tdx.bind_init_data(here, b"\x99" + digest[1:], ioctl=ioctl)
    assert error.value.code is ErrorCode.INIT_DATA_MISMATCH
    assert digest[:48].hex() in error.value.detail


def test_sysfs_comes_before_the_driver(tmp_path: Path) -> None:
    folder = tmp_path / tdx_sysfs.MEASUREMENTS
    folder.mkdir(parents=True)
    (folder / "mrconfigid").write_bytes(b"\x22" * 48)
    tdx.bind_init_data(Attester(sysroot=str(tmp_path)), b"\x22" * 48)


def test_an_old_kernel_has_no_registers_and_says_which_has(tmp_path: Path) -> None:
    here = Attester(sysroot=str(tmp_path))
    problem = tdx.measurement_problem(here)
    assert problem is not None
    assert "6.16" in problem
    for act in (lambda: tdx.read_register(here, 4), lambda: tdx.extend_register(here, 4, bytes(48))):
        with pytest.raises(AgentError, match=r"6\.16") as error:
            act()
        assert error.value.code is ErrorCode.NOT_SUPPORTED


def test_a_register_of_another_length_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / tdx_sysfs.MEASUREMENTS
    folder.mkdir(parents=True)
    (folder / "rtmr3:sha384").write_bytes(bytes(47))
    here = Attester(sysroot=str(tmp_path))
    assert "rtmr0:sha384" in (tdx.measurement_problem(here) or "")
    with pytest.raises(AgentError, match="47 bytes"):
        tdx.read_register(here, 4)


@pytest.mark.parametrize("register", [-1, 0, 5, 2**64])
def test_no_such_register(tmp_path: Path, register: int) -> None:
    with pytest.raises(AgentError) as error:
        tdx.read_register(Attester(sysroot=str(tmp_path)), register)
    assert error.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("size", [0, 32, 47, 49, 64])
def test_only_whole_digests_extend(tmp_path: Path, size: int) -> None:
    with pytest.raises(AgentError) as error:
        tdx.extend_register(Attester(sysroot=str(tmp_path)), 1, bytes(size))
    assert error.value.code is ErrorCode.INVALID_REQUEST


@settings(max_examples=200)
@given(st.binary(max_size=800))
def test_property_report_data_of_anything(data: bytes) -> None:
    found = tdx._report_data(data)
    assert found is None or len(found) <= 64


def test_limits_fit_a_real_quote() -> None:
    assert limits.QGS_MAX_ANSWER > 128 * 1024


def _soon() -> Deadline:
    return Deadline.after(FakeClock(), 5)
