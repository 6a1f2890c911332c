"""What Trustee refuses in logs: against its own reading, event by event."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import AgentError
from agent.tee.evidence import events
from agent.tee.evidence.events_refused import KINDS, refusals
from tests.unit.tee.evidence.test_events import event, spec_id, u16, u32
from tests.vectors import recorded

ZEROS = (0x0C, bytes(48))
GUID = bytes(16)


def said(*entries: bytes, first: bytes = b"", end: bytes = b"") -> tuple[str, ...]:
    data = (first or spec_id((0x0C, 48))) + b"".join(entries) + end
    return refusals(events.parse_log(data), data)


def path(*nodes: bytes, size: int | None = None) -> bytes:
    whole = b"".join(nodes) + b"\x7f\xff\4\0"
    return bytes(24) + (len(whole) if size is None else size).to_bytes(8, "little") + whole


def variable(name: str, value: bytes, *, size: int | None = None) -> bytes:
    sizes = (len(name), len(value) if size is None else size)
    return GUID + b"".join(each.to_bytes(8, "little") for each in sizes) + name.encode("utf-16-le") + value


NODE = b"\4\4" + u16(8) + b"path"
GOOD = [
    (0x04, b""),
    (0x05, b"Calling EFI"),
    (0x05, b""),
    (0x06, b"tag!" + u32(3) + b"any"),
    (0x06, b"tag!" + u32(3) + b"\xff\xfe\xfd"),
    (0x06, b"LEAA" + u32(14) + b"domain op text"),
    (0x0A, b"\xff"),
    (0x0D, b"grub_cmd\0\xff"),
    (0x0D, b"\xff\xff"),
    (0x0D, b".\0a\0"),
    (0x80000001, variable("PK", b"")),
    (0x800000E0, variable("db", b"\xff") + b"more"),
    (0x80000002, variable("Boot0000", b"x")),
    (0x80000003, bytes(32)),
    (0x80000003, path(NODE, NODE)),
    (0x8000000A, b"\4blob" + bytes(16)),
    (0x8000000B, b"\1"),
    (0x80000004, b"\xff"),  # whose data it does not take apart
]
BAD = [
    (0x05, b"\xff", "UTF-8"),
    (0x80000007, b"\xff", "UTF-8"),
    (0x06, b"LEAA", "shorter"),
    (0x06, b"LEAA" + u32(4) + b"abc", "shorter"),
    (0x06, b"LEAA" + u32(3) + b"abc", "domain and operation"),
    (0x06, b"LEAA" + u32(3) + b"\xff  ", "UTF-8"),
    (0x0D, b"x", "2 bytes"),
    (0x0D, b".\0", "UTF-16"),
    (0x0D, b".\0a", "UTF-16"),
    (0x80000001, b"", "shorter"),
    (0x80000001, variable("PK", b"x", size=2), "shorter"),
    (0x8000000C, GUID + (1 << 63).to_bytes(8, "little") + bytes(8), "shorter"),
    (0x800000E0, GUID + (1).to_bytes(8, "little") + bytes(8) + b"\0\xd8", "UTF-16"),
    (0x80000003, bytes(31), "32 bytes"),
    (0x80000003, path(size=100), "device path"),
    (0x80000003, path(size=4), "device path"),
    (0x80000003, path(b"\4\4" + u16(99) + b"path"), "broken node"),
    (0x80000003, path(b"\4\4" + u16(3) + b"path"), "broken node"),
    (0x80000003, path(NODE, b"\4\4"), "broken node"),
    (0x8000000A, b"", "description"),
    (0x8000000A, b"\0", "description"),
    (0x8000000A, b"\x4fshort", "description"),
    (0x8000000B, b"\3\xff\xff", "UTF-8"),
]


@pytest.mark.parametrize(("kind", "data"), GOOD)
def test_data_that_it_reads(kind: int, data: bytes) -> None:
    assert said(event(1, kind, ZEROS, data=data)) == ()


@pytest.mark.parametrize(("kind", "data", "word"), BAD)
def test_data_that_it_refuses(kind: int, data: bytes, word: str) -> None:
    (reason,) = said(event(1, 4, ZEROS), event(1, kind, ZEROS, data=data))
    assert word in reason
    assert "event 2, EV_" in reason


@pytest.mark.parametrize("kind", [0x13, 0x99, 0x8000000D, 0x800000E3, 0x800000E4, 0xFFFFFFFF])
def test_types_that_it_does_not_know(kind: int) -> None:
    assert kind not in KINDS
    (reason,) = said(event(1, kind, ZEROS), event(2, kind, ZEROS))
    assert "a type that it does not know (event 1, " in reason
    assert reason.endswith("; 2 events)")


@pytest.mark.parametrize(("end", "refused"), [(b"", False), (bytes(8), False), (b"\xff" * 40, False),
                                              (bytes(7), True), (b"\xff", True)])  # fmt: skip
def test_a_short_terminator(end: bytes, *, refused: bool) -> None:
    assert [f"of {len(end)} bytes" in each for each in said(event(1, 4, ZEROS), end=end)] == [True] * refused


def test_digests() -> None:
    sha1, mine = (0x04, bytes(20)), (0x0C, hashlib.sha384(b"a").digest())
    both = spec_id((0x04, 20), (0x0C, 48))
    assert "sha1" in said(event(1, 8, sha1, mine, data=b"a"), first=both)[0]
    assert "sha1" in said(event(1, 8, mine, sha1, data=b"a"), first=both)[0]
    assert said(event(1, 8, ZEROS, sha1, data=b"a"), first=both) == ()  # it stops at the first that differs
    assert "does not list" in said(event(1, 8, (0x0B, bytes(32))))[0]
    assert "0x0027" in said(first=spec_id((0x0C, 48), (0x27, 32)))[0]


def test_events_that_it_replays_though_nothing_extends_them() -> None:
    assert "EV_NO_ACTION" in said(event(1, 3, ZEROS))[0]
    assert said(event(0, 3, ZEROS), event(1, 3)) == ()  # MRTD is not compared; no digest, no replay


@pytest.mark.vectors
@pytest.mark.parametrize("name", ["CCEL_AAEL_alibabacloud", "CCEL_data_ovmf"])
def test_recorded_logs_are_taken(name: str) -> None:
    data = recorded(f"eventlog/{name}")
    assert refusals(events.parse_log(data), data) == ()


@settings(deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=80))
def test_any_data(kind: int, data: bytes) -> None:
    assert len(said(event(5, kind, ZEROS, data=data))) <= 1


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_log(data: bytes) -> None:
    whole = spec_id((0x0C, 48)) + data
    try:
        log, _ = events.salvage(whole)
    except AgentError:
        return
    assert all(each.isascii() for each in refusals(log, whole))
