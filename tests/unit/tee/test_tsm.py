"""The configfs-tsm client on plain folders; the kernel's semantics are in tests/integration."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from agent.clock import Deadline
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.tee import tsm

if TYPE_CHECKING:
    from pathlib import Path


def ask(sysroot: Path, clock: FakeClock | None = None) -> tsm.TsmReport:
    clock = clock or FakeClock()
    return tsm.request(str(sysroot), "tdx_guest", bytes(64), Deadline.after(clock, 5), pause=clock.advance)


def fails(sysroot: Path) -> AgentError:
    with pytest.raises(AgentError) as error:
        ask(sysroot)
    return error.value


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ("", "no configfs"),
        ("sys/kernel/config", "mount configfs"),
        ("sys/kernel/config/tsm", "another interface"),
    ],
)
def test_what_is_missing_is_told_apart(tmp_path: Path, there: str, says: str) -> None:
    (tmp_path / there).mkdir(parents=True, exist_ok=True)
    error = fails(tmp_path)
    assert error.code is ErrorCode.QUOTE_PATH_MISSING
    assert says in error.detail


def test_where_it_is_nothing_is_absent(tmp_path: Path) -> None:
    (tmp_path / tsm.REPORTS).mkdir(parents=True)
    assert tsm.absent(str(tmp_path)) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_names_path_and_mode(tmp_path: Path) -> None:
    (tmp_path / tsm.REPORTS).mkdir(parents=True, mode=0o755)
    (tmp_path / tsm.REPORTS).chmod(0o555)
    error = fails(tmp_path)
    assert error.code is ErrorCode.DEVICE_FORBIDDEN
    assert tsm.REPORTS in error.detail
    assert "0555" in error.detail


def test_an_entry_without_attributes_is_tried_again_and_never_left(tmp_path: Path) -> None:
    reports = tmp_path / tsm.REPORTS
    reports.mkdir(parents=True)
    error = fails(tmp_path)
    assert error.code is ErrorCode.EVIDENCE_FAILED
    assert "4 times" in error.detail
    assert list(reports.iterdir()) == []


def test_entries_of_dead_processes_are_removed_and_no_others(tmp_path: Path) -> None:
    reports = tmp_path / tsm.REPORTS
    reports.mkdir(parents=True)
    with subprocess.Popen(["true"]) as child:
        dead = child.pid
    kept = {f"coco-agent-{os.getpid()}-{'0' * 16}", "coco-agent-1-0000000000000000", "entry", "coco-agent-x"}
    for name in {*kept, f"coco-agent-{dead}-{'0' * 16}"}:
        (reports / name).mkdir()
    fails(tmp_path)
    assert {path.name for path in reports.iterdir()} == kept


def test_a_used_up_deadline_makes_no_entry(tmp_path: Path) -> None:
    (tmp_path / tsm.REPORTS).mkdir(parents=True)
    clock = FakeClock()
    with pytest.raises(AgentError) as error:
        tsm.request(str(tmp_path), "tdx_guest", bytes(64), Deadline.after(clock, 0), pause=clock.advance)
    assert error.value.code is ErrorCode.EVIDENCE_TIMEOUT


@pytest.mark.parametrize(
    ("provider", "number", "code"),
    [
        ("tdx_guest", errno.ETIMEDOUT, ErrorCode.QUOTE_SERVICE_UNREACHABLE),
        ("sev_guest", errno.ETIMEDOUT, ErrorCode.DEVICE_BUSY),
        ("arm_cca_guest", errno.ETIMEDOUT, ErrorCode.EVIDENCE_TIMEOUT),
        ("tdx_guest", errno.EIO, ErrorCode.EVIDENCE_FAILED),
        ("sev_guest", errno.ENOTTY, ErrorCode.DEVICE_KEY_WIPED),
        ("sev_guest", errno.EINVAL, ErrorCode.CONFIG_INVALID),
        ("tdx_guest", errno.ENXIO, ErrorCode.QUOTE_PATH_MISSING),
        ("sev_guest", errno.ENXIO, ErrorCode.EVIDENCE_FAILED),
        ("tdx_guest", errno.EFBIG, ErrorCode.EVIDENCE_FAILED),
        ("tdx_guest", errno.ENOMEM, ErrorCode.EVIDENCE_FAILED),
    ],
)
def test_refusals_are_told_apart_by_driver(provider: str, number: int, code: ErrorCode) -> None:
    error = tsm._refused(provider, number)
    assert error.code is code
    assert errno.errorcode[number] in error.detail
