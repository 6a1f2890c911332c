"""The runtime event log: what is measured, what is refused, and what a crash or a liar leaves."""

from __future__ import annotations

import fcntl
import os
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.roles import MeasurementResult
from agent.tee import az_snp_vtpm, az_tdx_vtpm, csv, tdx, tpm
from agent.tee.eventlog import RuntimeLog, header, record, shipped
from agent.tee.eventlog.ship import CCEL
from agent.tee.evidence import events
from tests.unit.tee.eventlog.registers import Guest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

EVENT = ("example.org", "start", "v1")
BROKEN = AgentError(ErrorCode.EVIDENCE_FAILED, "EIO")


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


def log_of(guest: Guest, *, enabled: bool = True, init_pcr: int = 17) -> RuntimeLog:
    return RuntimeLog(guest.measures, guest.settings(enabled=enabled, init_pcr=init_pcr))


def refused(work: Callable[[], object]) -> AgentError:
    with pytest.raises(AgentError) as caught:
        work()
    return caught.value


# --- measuring -----------------------------------------------------------------------------------


def test_an_event_is_in_the_register_and_in_the_log(guest: Guest) -> None:
    log = log_of(guest)
    assert log.extend(*EVENT) is MeasurementResult.OK
    assert log.extend(*EVENT) is MeasurementResult.OK
    assert guest.events() == [(4, *EVENT)] * 2
    assert guest.agrees()
    assert guest.leftovers() == set()


def test_the_register_that_was_extended_is_the_one_recorded(guest: Guest) -> None:
    log = log_of(guest)
    for pcr in (1, 7, 2, 8, 23, None):
        log.extend(*EVENT, pcr)
    assert [event[0] for event in guest.events()] == [1, 1, 2, 3, 4, 4]
    assert guest.agrees()


def test_the_default_register_is_configurable(guest: Guest) -> None:
    log_of(guest, init_pcr=9).extend(*EVENT)
    assert guest.events() == [(3, *EVENT)]


def test_another_algorithm(tmp_path: Path) -> None:
    guest = Guest(tmp_path, algorithm="sha256")
    log_of(guest).extend(*EVENT)
    assert guest.agrees()


def test_files_are_for_their_owner_only(guest: Guest) -> None:
    old = os.umask(0)
    try:
        log_of(guest).extend(*EVENT)
    finally:
        os.umask(old)
    assert stat.S_IMODE(guest.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in guest.folder.iterdir()} == {0o600}
    (guest.folder / "eventlog").chmod(0o644)
    log_of(guest).extend(*EVENT)
    assert stat.S_IMODE((guest.folder / "eventlog").stat().st_mode) == 0o600


def test_asked_once_it_is_there_once(guest: Guest) -> None:
    log = log_of(guest)
    for _ in range(3):
        assert log.extend(*EVENT, once=True) is MeasurementResult.OK
    assert guest.events() == [(4, *EVENT)]
    log.extend(*EVENT, 1, once=True)  # another register is another event
    log.extend("example.org", "start", "v2", once=True)
    assert len(guest.events()) == 3
    assert log_of(guest).extend(*EVENT, once=True) is MeasurementResult.OK
    assert len(guest.events()) == 3
    assert guest.agrees()


# --- what is not measured ------------------------------------------------------------------------


def test_switched_off_comes_first(guest: Guest) -> None:
    guest.registers.problem = "no sysfs"
    assert log_of(guest, enabled=False).extend("", "", "\n", -1) is MeasurementResult.NOT_ENABLED
    assert log_of(guest, enabled=False).problem is None


def test_not_supported_comes_before_anything_can_fail(guest: Guest) -> None:
    assert RuntimeLog(None, guest.settings()).extend("", "", "\n", -1) is MeasurementResult.NOT_SUPPORTED
    assert RuntimeLog(None, guest.settings()).problem
    guest.registers.problem = "no sysfs"
    log = log_of(guest)
    assert log.extend("", "", "\n", -1) is MeasurementResult.NOT_SUPPORTED
    assert log.problem == "no sysfs"
    assert not guest.folder.exists()
    guest.registers.problem = None  # not for ever
    assert log.extend(*EVENT) is MeasurementResult.OK


def firmware_log(guest: Guest, content: bytes) -> None:
    path = guest.root / "sysroot" / CCEL
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "no /sys/firmware/acpi/tables/data/CCEL"), (b"no event of any kind", "CCEL) is left out")],
)
def test_nothing_is_measured_that_a_verifier_could_not_replay(
    guest: Guest, caplog: pytest.LogCaptureFixture, content: bytes | None, reason: str
) -> None:
    guest.registers.FIRMWARE_LOG = True
    if content is not None:
        firmware_log(guest, content)
    log = log_of(guest)
    assert reason in (log.problem or "")
    assert "require_firmware_log = false" in (log.problem or "")
    assert log.extend(*EVENT) is MeasurementResult.NOT_SUPPORTED
    assert reason in str(vars(caplog.records[-1])["reason"])
    assert guest.registers.extended == []
    assert not guest.folder.exists()
    assert shipped(guest.settings()) is None
    firmware_log(guest, header())
    assert log.problem is None
    assert log.extend(*EVENT) is MeasurementResult.OK


def test_it_is_measured_all_the_same_where_the_configuration_says_so(guest: Guest) -> None:
    guest.registers.FIRMWARE_LOG = True
    log = RuntimeLog(guest.measures, replace(guest.settings(), require_firmware_log=False))
    assert log.problem is None
    assert log.extend(*EVENT) is MeasurementResult.OK


def test_what_a_crash_interrupted_is_carried_on_without_a_firmware_log_too(guest: Guest) -> None:
    guest.registers.refuses, guest.registers.extends_and_refuses = BROKEN, True
    log_of(guest).extend(*EVENT)
    guest.registers.FIRMWARE_LOG = True
    log_of(guest).recover()  # the register was extended: leaving the log behind would help nobody
    assert guest.agrees()


@pytest.mark.parametrize("tee", [tdx, csv])
def test_tees_whose_verifiers_replay_the_whole_log(tee: ModuleType) -> None:
    assert tee.FIRMWARE_LOG is True


@pytest.mark.parametrize("tee", [tpm, az_snp_vtpm, az_tdx_vtpm])
def test_tees_whose_log_is_not_sent(tee: ModuleType) -> None:
    assert not getattr(tee, "FIRMWARE_LOG", False)


@pytest.mark.parametrize("pcr", [-1, 2**64, 256, 0, 2**32])
def test_a_register_that_is_none_is_refused(guest: Guest, pcr: int) -> None:
    assert refused(lambda: log_of(guest).extend(*EVENT, pcr)).code is ErrorCode.INVALID_REQUEST
    assert guest.events() == []


def test_a_default_that_cannot_be_extended_is_a_configuration_error(guest: Guest) -> None:
    log = log_of(guest, init_pcr=0)
    error = refused(lambda: log.extend(*EVENT))
    assert error.code is ErrorCode.CONFIG_INVALID
    assert "init_pcr = 0" in error.detail
    assert "init_pcr = 0" in (log.problem or "")


def test_a_default_that_the_device_refuses_is_one_too(guest: Guest) -> None:
    guest.registers.refuses = AgentError(ErrorCode.INVALID_REQUEST, "locality")
    assert refused(lambda: log_of(guest).extend(*EVENT)).code is ErrorCode.CONFIG_INVALID
    assert refused(lambda: log_of(guest).extend(*EVENT, 17)).code is ErrorCode.INVALID_REQUEST
    assert (guest.events(), guest.leftovers()) == ([], set())


def test_a_tee_may_know_a_better_default(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest.registers, "DEFAULT_PCR", 14, raising=False)
    log_of(guest).extend(*EVENT)
    log_of(guest).extend(*EVENT, 17)
    log_of(guest, init_pcr=1).extend(*EVENT)
    assert [event[0] for event in guest.events()] == [3, 4, 1]


@pytest.mark.parametrize(
    ("event", "member"),
    [
        (("", "o", "c"), "domain"),
        (("d", "", "c"), "operation"),
        (("d e", "o", "c"), "domain"),
        (("d", "o\tp", "c"), "operation"),
        (("d", "o\u00a0p", "c"), "operation"),
        (("d\x7f", "o", "c"), "domain"),
        (("d\n", "o", "c"), "domain"),
        (("d\u202e", "o", "c"), "domain"),
        (("d", "o", "a\nb"), "content"),
        (("d", "o", "a\rb"), "content"),
        (("d", "o", "a\0b"), "content"),
        (("d", "o", "\ud800"), "content"),
    ],
)
def test_text_that_could_be_read_in_two_ways_is_refused(
    guest: Guest, event: tuple[str, str, str], member: str
) -> None:
    error = refused(lambda: log_of(guest).extend(*event))
    assert error.code is ErrorCode.INVALID_REQUEST
    assert member in error.detail
    assert guest.registers.extended == []


@pytest.mark.parametrize("content", ["", " ", '{"image":"a b", "digest":"sha256:0"}', "\t\u2028é"])
def test_content_may_be_any_line(guest: Guest, content: str) -> None:
    log_of(guest).extend("d", "o", content)
    assert guest.events() == [(4, "d", "o", content)]


def test_sizes_are_bounded(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_of(guest)
    log.extend("d", "o", "c" * (limits.RUNTIME_EVENT_MAX - 2))
    error = refused(lambda: log.extend("d", "o", "é" * (limits.RUNTIME_EVENT_MAX // 2)))
    assert error.code is ErrorCode.PAYLOAD_TOO_LARGE
    monkeypatch.setattr(limits, "RUNTIME_LOG_MAX", len(guest.log()) + 50)
    error = refused(lambda: log.extend(*EVENT))
    assert error.code is ErrorCode.GUEST_EXHAUSTED
    assert guest.agrees()


# --- devices that fail ---------------------------------------------------------------------------


def test_a_register_that_refuses_leaves_nothing(guest: Guest) -> None:
    guest.registers.refuses = BROKEN
    assert refused(lambda: log_of(guest).extend(*EVENT)) is BROKEN
    assert (guest.events(), guest.leftovers(), guest.agrees()) == ([], set(), True)
    guest.registers.refuses = None
    log_of(guest).extend(*EVENT)
    assert (len(guest.events()), guest.agrees()) == (1, True)


def test_a_register_that_refuses_afterwards_is_believed_itself(guest: Guest) -> None:
    guest.registers.refuses, guest.registers.extends_and_refuses = BROKEN, True
    assert log_of(guest).extend(*EVENT) is MeasurementResult.OK
    assert (len(guest.events()), guest.agrees()) == (1, True)


def test_a_register_that_does_nothing_is_noticed(guest: Guest) -> None:
    guest.registers.deaf = True
    assert refused(lambda: log_of(guest).extend(*EVENT)).code is ErrorCode.EVIDENCE_FAILED
    assert (guest.events(), guest.leftovers(), guest.agrees()) == ([], set(), True)


def test_a_register_with_another_value_is_noticed(guest: Guest) -> None:
    guest.registers.wrong = True
    for _ in range(2):  # and it stays so
        error = refused(lambda: log_of(guest).extend(*EVENT))
        assert error.code is ErrorCode.EVENT_LOG_CORRUPT
        assert "register 4" in error.detail


# --- log and register disagree -------------------------------------------------------------------


def somebody_extends(guest: Guest) -> None:
    guest.registers.extend_register(guest.settings(), 4, bytes(48))


def shortened(guest: Guest) -> None:
    log = guest.log()
    (guest.folder / "eventlog").write_bytes(log[: len(log) // 2])


def swapped(guest: Guest) -> None:
    log = guest.log()
    (guest.folder / "eventlog").write_bytes(log[len(log) // 2 :] + log[: len(log) // 2])


def removed(guest: Guest) -> None:
    (guest.folder / "eventlog").unlink()


def flipped(guest: Guest) -> None:
    log = bytearray(guest.log())
    log[20] ^= 1
    (guest.folder / "eventlog").write_bytes(log)


def reworded(guest: Guest) -> None:
    log = bytearray(guest.log())
    log[-1] ^= 1  # the text says something else than the digest
    (guest.folder / "eventlog").write_bytes(log)


def torn(guest: Guest) -> None:
    with (guest.folder / "eventlog").open("ab") as file:
        file.write(b"\4\0")


def starts_changed(guest: Guest) -> None:
    (guest.folder / ".registers").write_bytes(b"[]x")


@pytest.mark.parametrize(
    "change", [somebody_extends, shortened, swapped, removed, flipped, reworded, torn, starts_changed]
)
def test_a_log_and_a_register_that_disagree(guest: Guest, change: Callable[[Guest], None]) -> None:
    log_of(guest).extend("d", "o", "1")
    log_of(guest).extend("d", "o", "2")
    log_of(guest).recover()
    change(guest)
    log = log_of(guest)
    for work in (log.recover, lambda: log.extend(*EVENT)):
        assert refused(work).code is ErrorCode.EVENT_LOG_CORRUPT
    assert len(guest.registers.extended) == (3 if change is somebody_extends else 2)


def test_what_was_there_before_us_is_kept(guest: Guest) -> None:
    guest.folder.mkdir(parents=True)
    old = events.encode_event(4, "sha384", "somebody", "else", "wrote")
    (guest.folder / "eventlog").write_bytes(old)
    log_of(guest).extend(*EVENT)
    log_of(guest).recover()
    assert guest.log().startswith(old)
    assert len(guest.events()) == 2


# --- recovery ------------------------------------------------------------------------------------


def interrupted(guest: Guest, *, extended: bool, written: int = 0) -> record.Intent:
    """As a process leaves it that dies between the record and its removal."""
    log_of(guest).extend("d", "o", "before")
    before = guest.registers.values()[4]
    entry = events.encode_event(4, "sha384", *EVENT)
    (event,) = events.parse_entries(entry)
    digest = event.digests[0].value
    after = events.hash_of("sha384", before + digest)
    intent = record.Intent(len(guest.log()), before, after, entry)
    (guest.folder / ".wal_event_entry").write_bytes(record.encode(intent))
    if extended:
        guest.registers.extend_register(guest.settings(), 4, digest)
    with (guest.folder / "eventlog").open("ab") as file:
        file.write(entry[:written])
    return intent


@pytest.mark.parametrize(("extended", "written"), [(False, 0), (True, 0), (True, 30), (True, 97)])
def test_an_interrupted_measurement_is_completed(guest: Guest, extended: bool, written: int) -> None:
    interrupted(guest, extended=extended, written=written)
    log_of(guest).recover()
    assert guest.events() == [(4, "d", "o", "before"), (4, *EVENT)]
    assert (guest.agrees(), guest.leftovers()) == (True, set())


def test_the_next_measurement_completes_it_first(guest: Guest) -> None:
    interrupted(guest, extended=False)
    log_of(guest).extend("d", "o", "after")
    assert [event[3] for event in guest.events()] == ["before", "v1", "after"]
    assert guest.agrees()


def test_a_register_that_still_refuses_keeps_the_record(guest: Guest) -> None:
    interrupted(guest, extended=False)
    guest.registers.refuses = BROKEN
    assert refused(log_of(guest).recover) is BROKEN
    guest.registers.refuses = None
    log_of(guest).recover()
    assert (len(guest.events()), guest.agrees()) == (2, True)


def test_a_guest_that_lost_its_registers_says_so(guest: Guest) -> None:
    interrupted(guest, extended=False)
    guest.registers.problem = "no sysfs"
    assert refused(log_of(guest).recover).code is ErrorCode.NOT_SUPPORTED


def test_recovery_beside_another_extension_is_refused(guest: Guest) -> None:
    interrupted(guest, extended=True)
    somebody_extends(guest)
    for _ in range(2):
        assert refused(log_of(guest).recover).code is ErrorCode.EVENT_LOG_CORRUPT


@pytest.mark.parametrize("change", [shortened, removed, flipped])
def test_recovery_of_a_changed_log_is_refused(guest: Guest, change: Callable[[Guest], None]) -> None:
    interrupted(guest, extended=True)
    change(guest)
    assert refused(log_of(guest).recover).code is ErrorCode.EVENT_LOG_CORRUPT


def test_a_longer_log_than_the_record_says_is_refused(guest: Guest) -> None:
    intent = interrupted(guest, extended=True, written=98)
    with (guest.folder / "eventlog").open("ab") as file:
        file.write(intent.entry)
    assert refused(log_of(guest).recover).code is ErrorCode.EVENT_LOG_CORRUPT


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_torn_record_is_dropped_when_nothing_was_extended(guest: Guest, share: float) -> None:
    intent = interrupted(guest, extended=False)
    whole = record.encode(intent)
    (guest.folder / ".wal_event_entry").write_bytes(whole[: int(share * len(whole))])
    log_of(guest).recover()
    assert guest.events() == [(4, "d", "o", "before")]
    assert (guest.agrees(), guest.leftovers()) == (True, set())
    log_of(guest).extend(*EVENT)


def test_a_torn_record_of_something_extended_is_an_error(guest: Guest) -> None:
    intent = interrupted(guest, extended=True)
    (guest.folder / ".wal_event_entry").write_bytes(record.encode(intent)[:-1])
    assert refused(log_of(guest).recover).code is ErrorCode.EVENT_LOG_CORRUPT


def test_another_programs_record_is_left_to_the_operator(guest: Guest) -> None:
    guest.folder.mkdir(parents=True)
    (guest.folder / ".wal_event_entry").write_bytes(bytes(8) + b"value" + b"d o c")
    error = refused(lambda: log_of(guest).extend(*EVENT))
    assert error.code is ErrorCode.EVENT_LOG_CORRUPT
    assert "delete .wal_event_entry" in error.detail
    assert guest.registers.extended == []


@settings(max_examples=100)
@given(st.data())
def test_property_records(data: st.DataObject) -> None:
    words = st.binary(max_size=64)
    entry = events.encode_event(4, "sha384", *EVENT)
    intent = record.Intent(data.draw(st.integers(0, 2**64 - 1)), data.draw(words), data.draw(words), entry)
    encoded = record.encode(intent)
    assert record.decode(encoded) == intent
    at, change = data.draw(st.integers(0, len(encoded) - 1)), data.draw(st.integers(1, 255))
    damaged = encoded[:at] + bytes([encoded[at] ^ change]) + encoded[at + 1 :]
    for broken in (damaged, encoded[:at], data.draw(st.binary(max_size=200))):
        assert refused(lambda one=broken: record.decode(one)).code is ErrorCode.EVIDENCE_MALFORMED  # type: ignore[misc]


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_property_starting_points(noise: bytes) -> None:
    try:
        assert record.decode_starts(noise) == {}
    except AgentError as error:
        malformed = error.code
        assert malformed is ErrorCode.EVIDENCE_MALFORMED


# --- the folder ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eventlog", ".wal_event_entry", ".registers"])
def test_a_planted_link_is_not_followed(guest: Guest, tmp_path: Path, name: str) -> None:
    guest.folder.mkdir(parents=True)
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    (guest.folder / name).symlink_to(target)
    assert refused(lambda: log_of(guest).extend(*EVENT)).code is ErrorCode.FILE_UNSAFE
    assert target.read_bytes() == b"precious"
    assert guest.registers.extended == []


def test_a_planted_fifo_hangs_nobody(guest: Guest) -> None:
    guest.folder.mkdir(parents=True)
    os.mkfifo(guest.folder / "eventlog")
    assert refused(lambda: log_of(guest).extend(*EVENT)).code is ErrorCode.FILE_UNSAFE


def test_a_link_on_the_way_is_not_followed(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    guest.folder.parent.mkdir(parents=True)
    guest.folder.symlink_to(tmp_path / "elsewhere")
    assert refused(lambda: log_of(guest).extend(*EVENT)).code is ErrorCode.FILE_UNSAFE


@pytest.mark.parametrize("path", ["relative/path", "/run/../run/x", "/run/./x"])
def test_paths_are_plain(guest: Guest, path: str) -> None:
    log = RuntimeLog(guest.measures, replace(guest.settings(), eventlog_dir=path))
    assert refused(lambda: log.extend(*EVENT)).code is ErrorCode.FILE_UNSAFE


def test_a_folder_that_others_may_write_is_refused(guest: Guest) -> None:
    guest.folder.mkdir(parents=True)
    guest.folder.chmod(0o777)
    assert refused(lambda: log_of(guest).extend(*EVENT)).code is ErrorCode.FILE_UNSAFE


def test_one_writer_at_a_time(guest: Guest) -> None:
    log_of(guest).extend(*EVENT)
    other = os.open(guest.folder, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert refused(lambda: log_of(guest).extend(*EVENT)).code is ErrorCode.DEVICE_BUSY
    finally:
        os.close(other)
    log_of(guest).extend(*EVENT)
    assert guest.agrees()


def test_recovery_makes_no_folder(guest: Guest) -> None:
    log_of(guest).recover()
    assert not guest.folder.exists()
