"""TDREPORT: the recorded one's inner hashes hold; a changed byte is noticed."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.tee.evidence.tdreport import parse_tdreport, verify
from tests.unit.tee.evidence.forge import attempt
from tests.vectors import recorded


def made(version: int = 1) -> bytes:
    tcb, info = bytes(range(239)), bytes(range(256)) * 2
    head = bytes([0x81, 0, version, 0]) + bytes(12) + b"\x05" * 16
    head += hashlib.sha384(tcb).digest() + hashlib.sha384(info).digest() + b"\x07" * 64 + bytes(64)
    return head + tcb + bytes(17) + info


def results(data: bytes) -> list[bool | None]:
    return [check.passed for check in verify(parse_tdreport(data))]


@pytest.mark.vectors
def test_the_recorded_report_is_whole() -> None:
    report = parse_tdreport(recorded("tdx/tdx_report_1.bin"))
    assert [check.passed for check in verify(report)] == [True, True, None]
    assert report.version == 1
    assert report.rtmrs[0].hex().startswith("f4ec1a04")


@pytest.mark.parametrize("version", [0, 1])
def test_fields_are_where_the_sheet_says(version: int) -> None:
    data = made(version)
    report = parse_tdreport(data)
    assert results(data) == [True, True, None]
    assert report.report_data == b"\x07" * 64
    assert report.mrtd == data[528:576]
    assert report.mrconfigid == data[576:624]
    assert report.rtmrs == tuple(data[720 + 48 * i : 768 + 48 * i] for i in range(4))
    assert report.servtd_hash == data[912:960]
    assert report.mrseam == data[280:328]
    assert report.tee_tcb_svn2 == (data[384:400] if version else None)


@pytest.mark.parametrize(("at", "expected"), [(300, [False, True, None]), (600, [True, False, None])])
def test_a_changed_byte_fails_its_hash(at: int, expected: list[bool | None]) -> None:
    data = bytearray(made())
    data[at] ^= 1
    assert results(bytes(data)) == expected


@pytest.mark.parametrize(
    "data", [b"", made()[:-1], made() + b"\0", b"\0" * 1024, b"\x81\0\x02\0" + bytes(1020)]
)
def test_anything_else_is_malformed(data: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        parse_tdreport(data)
    assert caught.value.code is ErrorCode.EVIDENCE_MALFORMED


@settings(max_examples=100)
@given(data=st.binary(max_size=1200), head=st.binary(min_size=4, max_size=4))
def test_any_bytes_parse_or_are_malformed(data: bytes, head: bytes) -> None:
    for each in (data, head + bytes(1020), b"\x81\0\x01\0" + data):
        attempt(lambda: verify(parse_tdreport(each)))  # noqa: B023  # called at once
