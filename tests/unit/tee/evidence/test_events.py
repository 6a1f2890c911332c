"""Event logs: recorded ones, our entries byte for byte, and what must not break the parser."""

from __future__ import annotations

import hashlib
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.tee.eventlog import header
from agent.tee.evidence import events
from tests.vectors import recorded

TEXT = ("domain", "operation", "content")
ENTRY = bytes.fromhex(
    "0400000006000000010000000c00dad5f0e226318ffa9839b75a472c6aa7fdb5834949d0a0a22990cf04d5692440fb00f3aa"
    "0609db7e49cd8d793f670d02200000004c45414118000000646f6d61696e206f7065726174696f6e20636f6e74656e74"
)
DIGESTS = {
    "sha256": "46df8dacf00a07d34a83cdf56d7978697790787cf2ba1432ef7c38f22cd96351",
    "sha512": "b708d222ca8bd44dfe6ba0c4ca2cbb72379276fba8091025217064be45a813e5"
    "d6124ccf073219edb617d1faf007d55061465bdf34b7437dbdc9a7405bd4e9c0",
    "sm3": "17c21d43a57c0540f8125fac3dd0f19a0a08457f1cb3cbea93f159dbd346f61a",
}
RTMR = "82d3f7a4203f58dafe0519eb5e9f645339cda127418c62d4b0270d790ab6ff3c38783523613a7a9f610e7ba004788c26"
ALIBABA = {
    1: "b796e1c11396c198ae88794def4cb8e24fa9b35468287c298087f00d4de7433e4e31a297a4e5a03d4300fa6f3a96d47c",
    2: "3b0b906140fcea689c8774ac1eafcf0fef8e22ba81a047fd750ebd7df3235c2704df6106a758e31e5645e9838ff37406",
    3: "35f2801338c1b5fce96518f058c37e0fe9ed247a12dcd5f50d9c18fe4b6c71311bb63fca2640c7915817b6aa412a8480",
    4: "5e4ecd49d3c7983d6f9ca36755b5cee0b423d7fa8c5a88aeb0681bd4698772bc37b4463dc5f722efe352a66417257dad",
}
OVMF = {1: "8566f998", 2: "775b9f6b", 3: "94eaf7a7"}


def u32(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in numbers)


def u16(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(2, "little") for number in numbers)


def spec_id(
    *algorithms: tuple[int, int], vendor: bytes = b"", signature: bytes = b"Spec ID Event03\0"
) -> bytes:
    sizes = b"".join(u16(*pair) for pair in algorithms)
    data = signature + bytes(8) + u32(len(algorithms)) + sizes + bytes([len(vendor)]) + vendor
    return u32(1, 3) + bytes(20) + u32(len(data)) + data


def event(register: int, kind: int, *digests: tuple[int, bytes], data: bytes = b"") -> bytes:
    listed = b"".join(u16(algorithm) + digest for algorithm, digest in digests)
    return u32(register, kind, len(digests)) + listed + u32(len(data)) + data


def sha(data: bytes) -> tuple[int, bytes]:
    return 0x0C, hashlib.sha384(data).digest()


LOG = spec_id((0x0C, 48)) + event(1, 8, sha(b"a"), data=b"a") + event(4, 6, sha(b"b"), data=b"c")


def problem(data: bytes) -> str:
    with pytest.raises(AgentError) as caught:
        events.parse_log(data)
    assert caught.value.code is ErrorCode.EVIDENCE_MALFORMED
    return caught.value.detail


# --- recorded on hardware ------------------------------------------------------------------------


@pytest.mark.vectors
def test_a_recorded_log_with_our_entries_replays_to_the_registers() -> None:
    data = recorded("eventlog/CCEL_AAEL_alibabacloud")
    log = events.parse_log(data)
    assert (log.end, log.terminated, dict(log.algorithms)) == (11707, True, {0x0C: 48})
    assert {index: value.hex() for index, value in events.replay(log, "sha384").items()} == ALIBABA
    assert data[: events.parse_log(data).end] + events.TERMINATOR == data


@pytest.mark.vectors
def test_the_recorded_entries_are_reproduced_byte_for_byte() -> None:
    data = recorded("eventlog/CCEL_AAEL_alibabacloud")
    ours = [(one, said) for one in events.parse_log(data).events if (said := events.runtime_event(one))]
    assert [said for _, said in ours] == [
        events.RuntimeEvent("coco.com", "some-operation", "some-content"),
        events.RuntimeEvent(
            "coco.com", "some-operation", '{"key": "value", "nested-key": {"sub-key": "value"}}'
        ),
    ]
    for one, said in ours:
        made = events.encode_event(4, "sha384", said.domain, said.operation, said.content)
        assert made == data[one.offset : one.offset + one.size]
        assert events.digest_matches_event(one)
        assert one.type_name == "EV_EVENT_TAG"


@pytest.mark.vectors
def test_a_recorded_firmware_log_replays() -> None:
    log = events.parse_log(recorded("eventlog/CCEL_data_ovmf"))
    assert (log.end, log.terminated) == (2120, True)
    assert {index: value.hex()[:8] for index, value in events.replay(log, "sha384").items()} == OVMF
    assert not [one for one in log.events if events.runtime_event(one)]
    assert {one.type_name for one in log.events} >= {"EV_NO_ACTION", "EV_SEPARATOR", "EV_EFI_HANDOFF_TABLES2"}


@pytest.mark.vectors
@pytest.mark.parametrize("name", ["CCEL_AAEL_alibabacloud", "CCEL_data_ovmf"])
def test_one_flipped_bit_of_a_digest_leads_elsewhere(name: str) -> None:
    data = bytearray(recorded(f"eventlog/{name}"))
    log = events.parse_log(bytes(data))
    last = [one for one in log.events if one.digests][-1]
    data[last.offset + 14] ^= 1
    assert events.replay(events.parse_log(bytes(data)), "sha384") != events.replay(log, "sha384")


@pytest.mark.vectors
@settings(max_examples=150)
@given(data=st.data())
def test_property_a_damaged_recording_is_read_or_refused(data: st.DataObject) -> None:
    log = recorded("eventlog/CCEL_AAEL_alibabacloud")
    damaged = bytearray(log[: data.draw(st.integers(0, len(log)))])
    if damaged:
        for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=4)):
            damaged[at] = data.draw(st.integers(0, 255))
    survives(bytes(damaged))


# --- our entries ---------------------------------------------------------------------------------


def test_an_entry_byte_for_byte() -> None:
    made = events.encode_event(4, "sha384", *TEXT)
    assert (len(made), made) == (98, ENTRY)
    (read,) = events.parse_entries(made)
    assert events.replay((read,), "sha384") == {4: bytes.fromhex(RTMR)}
    assert events.runtime_event(read) == events.RuntimeEvent(*TEXT)
    assert events.digest_matches_event(read)


@pytest.mark.parametrize("algorithm", sorted(DIGESTS))
def test_entries_of_other_algorithms(algorithm: str) -> None:
    if algorithm not in hashlib.algorithms_available:
        pytest.skip(f"this Python has no {algorithm}")
    (read,) = events.parse_entries(events.encode_event(17, algorithm, *TEXT))
    assert read.digest(algorithm) == bytes.fromhex(DIGESTS[algorithm])
    assert (read.register, read.digests[0].name) == (17, algorithm)


def test_an_algorithm_that_is_not_there_is_named() -> None:
    for make in (
        lambda: events.encode_event(4, "md5", *TEXT),
        lambda: events.replay((), "whirlwind"),
    ):
        with pytest.raises(AgentError) as caught:
            make()
        assert caught.value.code is ErrorCode.NOT_SUPPORTED


@pytest.mark.parametrize(("register", "content"), [(-1, ""), (2**32, ""), (4, "\ud800")])
def test_what_an_entry_cannot_hold_is_refused(register: int, content: str) -> None:
    with pytest.raises(AgentError) as caught:
        events.encode_event(register, "sha384", "d", "o", content)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1), st.text(st.characters(exclude_categories=["Cs"])))
def test_property_what_is_encoded_is_read_again(register: int, content: str) -> None:
    entry = events.encode_event(register, "sha256", "d", "o", content)
    (read,) = events.parse_entries(entry)
    assert (read.register, read.offset, read.size) == (register, 0, len(entry))
    assert events.runtime_event(read) == events.RuntimeEvent("d", "o", content)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"LEAA",
        b"LEAA" + u32(5) + b"d o c" + b"!",
        b"LEAA" + u32(6) + b"d o c",
        b"AAEL" + u32(5) + b"d o c",
        b"LEAA" + u32(3) + b"d o",
        b"LEAA" + u32(5) + b"  o c",
        b"LEAA" + u32(5) + b"d o \xff",
    ],
)
def test_tagged_events_that_are_not_ours(data: bytes) -> None:
    (read,) = events.parse_entries(event(4, 6, sha(data), data=data))
    assert events.runtime_event(read) is None
    (other,) = events.parse_entries(event(4, 5, sha(ENTRY[66:]), data=ENTRY[66:]))
    assert events.runtime_event(other) is None


# --- the format ----------------------------------------------------------------------------------


def test_sizes_come_from_the_first_event() -> None:
    log = events.parse_log(
        spec_id((0x0C, 48), (0x99, 5), vendor=b"td-shim")
        + event(2, 0x4242, (0x99, b"12345"), sha(b"x"), data=b"x")
    )
    _, read = log.events
    assert (read.digests[0].name, read.digests[0].value) == ("0x0099", b"12345")
    assert read.type_name == "EV_0x00004242"
    assert not events.digest_matches_event(read)
    assert events.replay(log, "sha384") == {2: hashlib.sha384(bytes(48) + sha(b"x")[1]).digest()}


def test_sha1_digests_are_passed_by() -> None:
    log = spec_id((4, 20), (0x0B, 32)) + event(7, 1, (4, bytes(20)), (0x0B, bytes(32)))
    assert set(events.replay(events.parse_log(log), "sha256")) == {7}


def test_the_headers_of_a_log_without_firmware() -> None:
    assert len(header()) == 69
    read = events.parse_log(header() + ENTRY + events.TERMINATOR)
    assert dict(read.algorithms) == {0x0C: 48, 0x12: 32}
    assert [events.runtime_event(one) for one in read.events] == [None, events.RuntimeEvent(*TEXT)]
    entries = events.parse_entries(events.encode_event(17, "sha256", *TEXT))
    full = header(entries)
    assert full[32:48] == b"Spec ID Event03\0"
    assert dict(events.parse_log(full).algorithms) == {0x0B: 32}


@pytest.mark.parametrize(
    ("tail", "terminated"),
    [
        (b"", False),
        (b"\xff" * 8, True),
        (bytes(8), True),
        (bytes(8) + b"anything", True),
        (b"\xff" * 8 + b"anything", True),
        (bytes(3), True),
        (b"\xff" * 5, True),
    ],
)
def test_a_log_ends_in_many_ways(tail: bytes, terminated: bool) -> None:
    log = events.parse_log(LOG + tail)
    assert (len(log.events), log.end, log.terminated) == (3, len(LOG), terminated)
    assert events.parse_log(LOG + tail).end == len(LOG)


def test_events_that_extend_nothing_are_not_replayed() -> None:
    quiet = LOG + event(1, 3, sha(b"StartupLocality"), data=b"StartupLocality\0\3")
    assert events.replay(events.parse_log(quiet), "sha384") == events.replay(events.parse_log(LOG), "sha384")


def test_an_event_without_the_digest_is_no_agreement() -> None:
    with pytest.raises(AgentError) as caught:
        events.replay(events.parse_log(LOG), "sha256")
    assert caught.value.code is ErrorCode.EVIDENCE_MALFORMED


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "register index"),
        (u32(0, 8) + bytes(20) + u32(0), "first event"),
        (spec_id((0x0C, 48), signature=b"Spec ID Event00\0"), "signature"),
        (spec_id((0x0C, 47)), "47 bytes"),
        (spec_id((0x99, 0)), "0 bytes"),
        (spec_id((0x99, 4), (0x99, 5)), "5 bytes"),
        (spec_id(*((0x100 + number, 4) for number in range(17))), "17 algorithms"),
        (LOG + u32(1, 8, 17), "17 digests"),
        (LOG + u32(1, 8, 0xFFFFFFFF), "digests"),
        (LOG + u32(1, 8, 1) + u16(0x99) + bytes(60), "not known"),
        (LOG + u32(1, 8, 0, 0xFFFFFFFF), "bytes are left"),
        (LOG[:-1], "bytes are left"),
        (LOG + b"\0\xff", "register index"),
    ],
)
def test_what_is_malformed_is_named(data: bytes, reason: str) -> None:
    assert reason in problem(data)


def test_a_broken_log_is_readable_up_to_there() -> None:
    log, wrong = events.salvage(LOG + b"\1garbage")
    assert (len(log.events), log.end, log.terminated) == (3, len(LOG), False)
    assert wrong is not None
    assert wrong.code is ErrorCode.EVIDENCE_MALFORMED
    entries, wrong = events.salvage_entries(ENTRY + ENTRY[:50])
    assert (len(entries), wrong is not None) == (1, True)


def test_logs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EVENT_LOG_EVENTS", 2)
    assert "more than 2 events" in problem(LOG + event(1, 8))
    monkeypatch.setattr(limits, "EVENT_LOG_MAX", 100)
    assert "more than 100" in problem(LOG)
    assert events.salvage_entries(bytes(101))[1] is not None


def survives(data: bytes) -> None:
    for parse in (events.parse_log, events.parse_entries):
        with suppress(AgentError):
            parse(data)
    for one in events.salvage_entries(data)[0]:
        events.runtime_event(one)
        events.digest_matches_event(one)


@settings(max_examples=150)
@given(st.binary(max_size=400))
def test_property_noise_is_refused_or_read(noise: bytes) -> None:
    survives(noise)
    survives(LOG + noise)


# --- where PCR 0 begins ------------------------------------------------------------------------------
CRTM, HCRTM = (0x0B, hashlib.sha256(b"crtm").digest()), (0x0B, hashlib.sha256(b"hcrtm").digest())


def tpm_log(*entries: bytes) -> events.EventLog:
    return events.parse_log(spec_id((0x0B, 32)) + b"".join(entries))


def locality(value: bytes, register: int = 0, kind: int = 3) -> bytes:
    return event(register, kind, (0x0B, bytes(32)), data=b"StartupLocality\0" + value)


def extended(first: bytes, *digests: tuple[int, bytes]) -> bytes:
    for _, digest in digests:
        first = hashlib.sha256(first + digest).digest()
    return first


@pytest.mark.parametrize(
    ("entries", "begins"),
    [
        ([], 0),
        ([locality(b"\0")], 0),
        ([locality(b"\3")], 3),
        ([locality(b"\4")], 4),
        ([locality(b"\3"), locality(b"\0")], 3),
        ([event(0, 0x80000010, HCRTM, data=b"HCRTM")], 4),
        ([locality(b"\3"), event(0, 0x80000010, HCRTM, data=b"HCRTM")], 4),  # before the TPM was started
        # what only looks like it
        ([locality(b"\3", register=1)], 0),
        ([locality(b"")], 0),
        ([locality(b"\3\0")], 0),
        ([event(0, 3, (0x0B, bytes(32)), data=b"startuplocality\0\3")], 0),
        ([event(1, 0x80000010, HCRTM, data=b"HCRTM")], 0),
    ],
)
def test_pcr_0_begins_where_the_log_says(entries: list[bytes], begins: int) -> None:
    log = tpm_log(*entries, event(0, 8, CRTM), event(2, 8, CRTM))
    measured = [HCRTM, CRTM] if any(e[:8] == u32(0, 0x80000010) for e in entries) else [CRTM]
    found = events.replay(log, "sha256")
    assert found[0] == extended(bytes(31) + bytes([begins]), *measured)
    assert found[2] == extended(bytes(32), CRTM)  # the others always begin with zeros


def test_a_startup_locality_that_is_extended_is_an_event_like_others() -> None:
    log = tpm_log(locality(b"\3", kind=8))
    assert events.replay(log, "sha256")[0] == extended(bytes(32), (0x0B, bytes(32)))


def test_a_register_that_is_given_begins_as_given() -> None:
    log = tpm_log(locality(b"\3"), event(0, 8, CRTM))
    assert events.replay(log, "sha256", {0: b"\5" * 32})[0] == extended(b"\5" * 32, CRTM)


def test_pcr_0_is_told_though_nothing_was_measured_into_it() -> None:
    assert events.replay(tpm_log(locality(b"\3")), "sha256") == {0: bytes(31) + b"\3"}
    assert events.startup_locality(tpm_log().events) is None
