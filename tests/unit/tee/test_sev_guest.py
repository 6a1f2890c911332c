"""The SEV guest driver's ioctls, against a driver made of ctypes."""

from __future__ import annotations

import ctypes
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
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.tee import sev_guest
from agent.tee.backoff import Backoff
from tests.unit.tee.sev_driver import DATA, Driver, report

if TYPE_CHECKING:
    from pathlib import Path


def guest(driver: Driver, clock: FakeClock | None = None, vmpl: int = 0) -> sev_guest.SevGuest:
    clock = clock or FakeClock()
    backoff = Backoff(Deadline.after(clock, 10), clock.advance)
    return sev_guest.SevGuest(0, vmpl, backoff, driver.ioctl)


def code_of(error: pytest.ExceptionInfo[AgentError]) -> ErrorCode:
    return error.value.code


def test_structures_have_the_kernels_sizes() -> None:
    assert ctypes.sizeof(sev_guest.GuestRequest) == 32
    assert [getattr(sev_guest.GuestRequest, name).offset for name, _ in sev_guest.GuestRequest._fields_] == [
        *(0, 8, 16, 24)
    ]
    assert len(sev_guest.report_request(DATA, 2)) == 96
    asked = sev_guest.ext_report_request(DATA, 2, 0x1000, 0x4000)
    assert len(asked) == 112
    assert asked[:64] == DATA
    assert asked[64:96] == (2).to_bytes(4, "little") + bytes(28)
    assert asked[96:108] == struct.pack("<QI", 0x1000, 0x4000)


def test_a_host_without_certificates_is_asked_once() -> None:
    driver = Driver()
    raw, table = guest(driver).extended(DATA)
    assert raw == report()
    assert table is None
    assert [command for command, _ in driver.seen] == [sev_guest.GET_EXT_REPORT]


def test_the_table_is_fetched_with_the_size_the_driver_names() -> None:
    driver = Driver(table=b"certificates" * 500)
    raw, table = guest(driver).extended(DATA)
    assert raw == report()
    assert table is not None
    assert table.rstrip(b"\0") == driver.table
    assert len(table) == 8192
    assert len(driver.seen) == 2


def test_a_table_that_is_too_large_is_done_without() -> None:
    driver = Driver(table=b"x", wanted=limits.SNP_MAX_CERTS + 1)
    raw, table = guest(driver).extended(DATA)
    assert (raw, table) == (report(), None)
    assert [command for command, _ in driver.seen] == [sev_guest.GET_EXT_REPORT, sev_guest.GET_REPORT]


def test_a_table_that_keeps_growing_is_done_without() -> None:
    driver = Driver(failures=[(errno.EIO, 1 << 32)] * 3, wanted=4096)
    # The driver says "too small" each time, and names a size in the request.
    inner = driver.ioctl

    def grows(opened: int, command: int, asked: ctypes.Structure) -> int:
        try:
            return inner(opened, command, asked)
        except OSError:
            address = struct.unpack("<B7xQQQ", bytes(asked))[1]
            ctypes.memmove(address + 104, (4096).to_bytes(4, "little"), 4)
            raise

    clock = FakeClock()
    backoff = Backoff(Deadline.after(clock, 10), clock.advance)
    raw, table = sev_guest.SevGuest(0, 0, backoff, grows).extended(DATA)
    assert (raw, table) == (report(), None)
    assert len(driver.seen) == 4


@pytest.mark.parametrize(
    ("failed", "exitinfo2", "code", "says"),
    [
        (errno.ENOTTY, 0xFF, ErrorCode.DEVICE_KEY_WIPED, "VMPCK"),
        (errno.ETIMEDOUT, 2 << 32, ErrorCode.DEVICE_BUSY, "throttles"),
        (errno.EIO, 2 << 32, ErrorCode.DEVICE_BUSY, "throttles"),
        (errno.EIO, 0xFF, ErrorCode.EVIDENCE_FAILED, "no answer"),
        (errno.EIO, 0x17, ErrorCode.EVIDENCE_FAILED, "0x17 (resource limit)"),
        (errno.EIO, 0x99, ErrorCode.EVIDENCE_FAILED, "0x99 (unknown)"),
        (errno.EIO, 7 << 32, ErrorCode.EVIDENCE_FAILED, "hypervisor says 0x7"),
        (errno.EINVAL, 0xFF, ErrorCode.EVIDENCE_FAILED, "refuses the request"),
        (errno.EBADMSG, 0xFF, ErrorCode.EVIDENCE_FAILED, "not from the security processor"),
        (errno.EFAULT, 0xFF, ErrorCode.EVIDENCE_FAILED, "buffers"),
        (errno.EPERM, 0xFF, ErrorCode.DEVICE_FORBIDDEN, "permitted"),
        (errno.ENOMEM, 0xFF, ErrorCode.EVIDENCE_FAILED, "ENOMEM"),
    ],
)
def test_every_failure_has_its_name(failed: int, exitinfo2: int, code: ErrorCode, says: str) -> None:
    for ask in ("report", "extended"):
        driver = Driver(failures=[(failed, exitinfo2)])
        with pytest.raises(AgentError, match=r".") as error:
            getattr(guest(driver), ask)(DATA)
        assert code_of(error) is code
        assert says in error.value.detail


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (0x16, ErrorCode.CONFIG_INVALID, "attester.snp_vmpl"),
        (0x27, ErrorCode.EVIDENCE_FAILED, "invalid key"),
        (0x20, ErrorCode.EVIDENCE_FAILED, "RMP initialization required"),
        (0x1F, ErrorCode.EVIDENCE_FAILED, "ring buffer exited"),
        (0x77, ErrorCode.EVIDENCE_FAILED, "unknown"),
    ],
)
def test_the_processors_own_status_is_looked_at(status: int, code: ErrorCode, says: str) -> None:
    with pytest.raises(AgentError) as error:
        guest(Driver(status=status)).report(DATA)
    assert code_of(error) is code
    assert says in error.value.detail


def test_an_interrupted_call_is_made_again() -> None:
    driver = Driver(failures=[(errno.EINTR, 0xFF)] * 3)
    assert guest(driver).report(DATA) == report()
    assert len(driver.seen) == 4


def test_a_busy_driver_is_asked_until_the_deadline() -> None:
    driver = Driver(failures=[(errno.EAGAIN, 0xFF), (errno.EBUSY, 0xFF)])
    assert guest(driver).report(DATA) == report()
    clock = FakeClock()
    driver = Driver(failures=[(errno.EAGAIN, 0xFF)] * 1000)
    with pytest.raises(AgentError) as error:
        guest(driver, clock).report(DATA)
    assert code_of(error) is ErrorCode.DEVICE_BUSY
    assert clock.boot() <= 1010.0


def test_no_time_left_asks_nothing() -> None:
    clock = FakeClock()
    driver = Driver()
    asked = sev_guest.SevGuest(0, 0, Backoff(Deadline.after(clock, 0), clock.advance), driver.ioctl)
    with pytest.raises(AgentError) as error:
        asked.report(DATA)
    assert code_of(error) is ErrorCode.EVIDENCE_TIMEOUT
    assert driver.seen == []


def test_a_missing_device_is_none(tmp_path: Path) -> None:
    with sev_guest.opened(str(tmp_path)) as device:
        assert device is None


def test_something_else_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "sev-guest").write_bytes(b"")
    with pytest.raises(AgentError, match="not a device"), sev_guest.opened(str(tmp_path)):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_device_we_may_not_open(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "sev-guest").touch(mode=0)
    with pytest.raises(AgentError) as error, sev_guest.opened(str(tmp_path)):
        pass
    assert code_of(error) is ErrorCode.DEVICE_FORBIDDEN


@settings(max_examples=200)
@given(st.binary(max_size=4096), st.integers(0, 3))
def test_property_an_answer_is_a_report_or_the_declared_error(data: bytes, vmpl: int) -> None:
    with suppress(AgentError):
        assert len(sev_guest.report_of(data, vmpl)) == sev_guest.REPORT_SIZE


@settings(max_examples=200)
@given(st.integers(0, 2**16), st.integers(0, 2**64 - 1), st.binary(min_size=112, max_size=112))
def test_property_no_room_beyond_the_limit(code: int, exitinfo2: int, request: bytes) -> None:
    wanted = sev_guest.wanted_table(code, exitinfo2, request)
    if wanted is not None:
        room = sev_guest.table_room(wanted)
        assert room is None or (room <= limits.SNP_MAX_CERTS and room % 4096 == 0 and room >= wanted)
    assert sev_guest.failure(code or 1, exitinfo2).detail
