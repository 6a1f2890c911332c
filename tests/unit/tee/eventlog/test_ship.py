"""What evidence carries of the event logs."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from agent.config import limits
from agent.tee.eventlog import RuntimeLog, problems, shipped
from agent.tee.evidence import events
from tests.unit.tee.eventlog.registers import Guest
from tests.vectors import recorded

if TYPE_CHECKING:
    from pathlib import Path

EMPTY = (
    "AAAAAAMAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACUAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACAAAADAAwABIAIAAA//////////8="
)
EVENT = ("coco.com", "some-operation", "some-content")
SPEC_ID = (
    b"\1\0\0\0\3\0\0\0" + bytes(20) + b"\x21\0\0\0Spec ID Event03\0" + bytes(8) + b"\1\0\0\0\x0c\0\x30\0\0"
)
ONE = b"\1\0\0\0\x08\0\0\0\1\0\0\0\x0c\0" + bytes(48) + b"\0\0\0\0"


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


def firmware(guest: Guest, table: bytes) -> Path:
    path = guest.root / "sysroot/sys/firmware/acpi/tables/data/CCEL"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(table)
    return path


def measured(guest: Guest) -> bytes:
    RuntimeLog(guest.measures, guest.settings()).extend(*EVENT)
    return guest.log()


def test_without_both_logs_there_is_nothing(guest: Guest) -> None:
    assert shipped(guest.settings()) is None
    assert problems(guest.settings()) == ()


def test_an_empty_runtime_log_is_a_header(guest: Guest) -> None:
    guest.folder.mkdir(parents=True)
    (guest.folder / "eventlog").touch(0o600)
    assert base64.b64encode(shipped(guest.settings()) or b"").decode() == EMPTY


def test_runtime_entries_follow_our_header(guest: Guest) -> None:
    entries = measured(guest)
    log = shipped(guest.settings())
    assert log == base64.b64decode(EMPTY)[:69] + entries + events.TERMINATOR
    assert events.runtime_event(events.parse_log(log).events[-1]) == events.RuntimeEvent(*EVENT)


@pytest.mark.vectors
def test_runtime_entries_follow_the_firmwares_log(guest: Guest) -> None:
    whole = recorded("eventlog/CCEL_AAEL_alibabacloud")
    entries = [one for one in events.parse_log(whole).events if events.runtime_event(one)]
    at = entries[0].offset
    firmware(guest, whole[:at] + bytes(1000))
    guest.folder.mkdir(parents=True)
    (guest.folder / "eventlog").write_bytes(whole[at:-8])
    assert shipped(guest.settings()) == whole
    assert problems(guest.settings()) == ()


@pytest.mark.vectors
def test_a_firmware_log_alone_is_trimmed(guest: Guest) -> None:
    table = recorded("eventlog/CCEL_data_ovmf")
    firmware(guest, table)
    assert shipped(guest.settings()) == table[:2120] + b"\xff" * 8


def test_a_missing_terminator_is_no_problem(guest: Guest) -> None:
    firmware(guest, SPEC_ID + ONE)
    assert shipped(guest.settings()) == SPEC_ID + ONE + events.TERMINATOR
    assert problems(guest.settings()) == ()


@pytest.mark.parametrize("rest", [ONE[:20], b"\7" * 40])
def test_a_corrupt_firmware_log_is_shipped_as_far_as_it_goes(
    guest: Guest, rest: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    entries = measured(guest)
    firmware(guest, SPEC_ID + ONE + rest)
    assert shipped(guest.settings()) == SPEC_ID + ONE + entries + events.TERMINATOR
    assert "corrupt" in vars(caplog.records[-1])["reason"]
    assert len(problems(guest.settings())) == 1


@pytest.mark.parametrize("table", [b"", b"\7" * 100, bytes(4096)])
def test_an_unreadable_firmware_log_leaves_our_entries(guest: Guest, table: bytes) -> None:
    firmware(guest, table)
    assert shipped(guest.settings()) is None
    entries = measured(guest)
    assert shipped(guest.settings()) == base64.b64decode(EMPTY)[:69] + entries + events.TERMINATOR
    assert "left out" in problems(guest.settings())[0]


def test_a_firmware_log_that_leads_elsewhere_is_left_out(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(SPEC_ID + ONE)
    path = firmware(guest, b"")
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert shipped(guest.settings()) is None
    assert "symbolic link" in problems(guest.settings())[0]


def test_a_torn_runtime_log_is_shipped_as_far_as_it_goes(guest: Guest) -> None:
    entries = measured(guest)
    with (guest.folder / "eventlog").open("ab") as file:
        file.write(entries[:30])
    assert (shipped(guest.settings()) or b"")[69:] == entries + events.TERMINATOR
    assert "runtime log" in problems(guest.settings())[0]


def test_a_log_that_others_may_write_is_left_out(guest: Guest) -> None:
    measured(guest)
    (guest.folder / "eventlog").chmod(0o666)
    assert shipped(guest.settings()) is None


def test_sizes_are_bounded(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(guest)
    firmware(guest, SPEC_ID + ONE)
    monkeypatch.setattr(limits, "EVENT_LOG_MAX", 100)
    monkeypatch.setattr(limits, "RUNTIME_LOG_MAX", 100)
    assert shipped(guest.settings()) is None
    assert len(problems(guest.settings())) == 2


def test_another_algorithm_is_announced(tmp_path: Path) -> None:
    guest = Guest(tmp_path, algorithm="sha256")
    measured(guest)
    log = events.parse_log(shipped(guest.settings()) or b"")
    assert dict(log.algorithms) == {0x0B: 32}
    assert events.runtime_event(log.events[-1]) == events.RuntimeEvent(*EVENT)
