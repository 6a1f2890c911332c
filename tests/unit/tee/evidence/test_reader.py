"""The cursor every parser of evidence reads with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.tee.evidence.reader import Reader, malformed


def test_numbers_are_little_endian_unless_said_otherwise() -> None:
    reader = Reader(bytes(range(1, 31)), "thing")
    assert reader.u8() == 1
    assert reader.u16() == 0x0302
    assert reader.u32() == 0x07060504
    assert reader.u64() == 0x0F0E0D0C0B0A0908
    assert reader.be16() == 0x1011
    assert reader.be32() == 0x12131415
    assert reader.be64() == 0x161718191A1B1C1D
    assert (reader.at, reader.left) == (29, 1)
    assert reader.rest() == b"\x1e"
    assert reader.rest() == b""


@pytest.mark.parametrize("read", ["u8", "u16", "u32", "u64", "be16", "be32", "be64"])
def test_a_number_that_is_not_all_there_is_an_error_and_moves_nothing(read: str) -> None:
    size = {"8": 1, "6": 2, "2": 4, "4": 8}[read[-1]]
    reader = Reader(bytes(size - 1), "thing")
    with pytest.raises(AgentError) as caught:
        getattr(reader, read)("count")
    assert caught.value.code is ErrorCode.EVIDENCE_MALFORMED
    assert caught.value.detail == f"thing: count of {size} bytes at offset 0, {size - 1} bytes are left"
    assert reader.at == 0


@pytest.mark.parametrize("size", [-1, 5, 2**32, 2**64])
def test_no_more_is_taken_or_skipped_than_is_there(size: int) -> None:
    reader = Reader(b"1234", "thing")
    for pass_by in (reader.take, reader.skip):
        with pytest.raises(AgentError):
            pass_by(size)
    assert reader.rest() == b"1234"


def test_skipping_moves_on() -> None:
    reader = Reader(b"1234", "thing")
    reader.skip(0)
    reader.skip(3)
    assert reader.take(1) == b"4"
    with pytest.raises(AgentError, match="reserved of 1 bytes at offset 4"):
        reader.skip(1)


def test_errors_name_the_structure() -> None:
    assert str(malformed("TDX quote", "version 9")) == "EVIDENCE_MALFORMED: TDX quote: version 9"
    assert Reader(b"", "TDX quote").wrong("version 9").detail == "TDX quote: version 9"


@given(st.binary(max_size=64), st.lists(st.integers(-2, 70), max_size=8))
def test_what_is_read_is_the_input_in_order(data: bytes, sizes: list[int]) -> None:
    reader, seen = Reader(data, "thing"), b""
    for size in sizes:
        try:
            seen += reader.take(size)
        except AgentError:
            assert size < 0 or size > reader.left
    assert seen == data[: reader.at]
    assert reader.left == len(data) - reader.at


@pytest.mark.parametrize("data", [bytearray(b"12"), memoryview(b"12")])
def test_what_was_taken_is_bytes_of_its_own(data: bytes) -> None:
    taken = Reader(data, "thing").take(2)
    assert type(taken) is bytes
