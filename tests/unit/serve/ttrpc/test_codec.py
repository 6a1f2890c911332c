from __future__ import annotations

import contextlib
import itertools
import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import limits
from agent.protos import ttrpc_pb2
from agent.serve.ttrpc.codec import (
    HEADER,
    MAX_MESSAGE,
    Decoder,
    EnvelopeError,
    Event,
    Frame,
    FrameType,
    Oversized,
    Request,
    StatusError,
    encode_frame,
    encode_request,
    encode_response,
    encode_status,
    parse_request,
    parse_response,
)

# cdh.md A.6
REQUEST = bytes.fromhex(
    "000000440000000101000a166170692e4765745265736f7572636553657276696365120b4765745265736f757263651a16"
    "0a146b62733a2f2f2f64656661756c742f6b65792f312080e8eda1ba01"
)
REPLY = bytes.fromhex("0000000700000001020012050a03616263")
REPLY_EMPTY_STATUS = bytes.fromhex("000000090000000102000a0012050a03616263")
ERROR = bytes.fromhex(
    "000000280000000102000a26080d12225b4344485d205b4552524f525d3a20476574205265736f75726365206661696c6564"
)
INNER = bytes.fromhex("0a146b62733a2f2f2f64656661756c742f6b65792f31")


def only(data: bytes) -> Frame:
    (event,) = Decoder().feed(data)
    assert isinstance(event, Frame)
    return event


class TestVectors:
    def test_a_request_is_read(self) -> None:
        frame = only(REQUEST)
        assert (frame.stream, frame.kind, frame.flags) == (1, FrameType.REQUEST, 0)
        assert parse_request(frame.body) == Request("api.GetResourceService", "GetResource", INNER, 50.0)

    def test_a_request_is_written(self) -> None:
        request = Request("api.GetResourceService", "GetResource", INNER, 50.0)
        assert encode_request(1, request) == REQUEST

    def test_a_reply_is_written_without_a_status(self) -> None:
        assert encode_response(1, bytes.fromhex("0a03616263")) == REPLY

    @pytest.mark.parametrize("data", [REPLY, REPLY_EMPTY_STATUS])
    def test_a_reply_is_read_with_and_without_an_empty_status(self, data: bytes) -> None:
        assert parse_response(only(data).body) == bytes.fromhex("0a03616263")

    def test_an_error_is_written(self) -> None:
        assert encode_status(1, 13, "[CDH] [ERROR]: Get Resource failed") == ERROR

    def test_an_error_is_read(self) -> None:
        with pytest.raises(StatusError) as caught:
            parse_response(only(ERROR).body)
        assert (caught.value.code, caught.value.message) == (13, "[CDH] [ERROR]: Get Resource failed")


class TestDecoder:
    def test_frames_in_one_chunk_come_out_in_order(self) -> None:
        assert [event.stream for event in Decoder().feed(REQUEST + ERROR + REPLY)] == [1, 1, 1]

    def test_the_largest_body_passes(self) -> None:
        body = bytes(limits.TTRPC_MAX_BODY)
        assert only(encode_frame(1, 7, body)).body == body

    def test_an_oversized_frame_is_told_at_its_header(self) -> None:
        length = limits.TTRPC_MAX_BODY + 1
        assert Decoder().feed(HEADER.pack(length, 9, 1, 0)) == [Oversized(9, 1, length)]

    def test_frames_after_an_oversized_one_are_read(self) -> None:
        decoder = Decoder(max_body=8)
        events = decoder.feed(HEADER.pack(9, 9, 1, 0) + b"123456789" + HEADER.pack(2, 11, 1, 0) + b"ok")
        assert events == [Oversized(9, 1, 9), Frame(11, 1, 0, b"ok")]

    def test_an_oversized_body_is_not_held(self) -> None:
        decoder = Decoder(max_body=8)
        decoder.feed(HEADER.pack(2**32 - 1, 9, 1, 0))
        for _ in range(100):
            assert decoder.feed(bytes(1000)) == []
        assert len(decoder._held) == 0

    def test_a_body_that_is_given_up_is_not_held_and_what_follows_is_read(self) -> None:
        decoder = Decoder()
        assert decoder.feed(HEADER.pack(5000, 9, 1, 0) + bytes(2000)) == []
        assert decoder.unfinished == 2000
        assert decoder.drop() == (9, 1)
        assert decoder.unfinished == 0
        assert decoder.feed(bytes(2999)) == []
        assert decoder.unfinished == 0
        assert decoder.feed(b"\0" + HEADER.pack(2, 11, 1, 0) + b"ok") == [Frame(11, 1, 0, b"ok")]

    @pytest.mark.parametrize("data", [b"", b"\0\0\0", HEADER.pack(99, 1, 1, 0)[:9]])
    def test_where_no_body_is_begun_nothing_is_given_up(self, data: bytes) -> None:
        decoder = Decoder()
        decoder.feed(data)
        assert decoder.drop() == (0, 0)
        assert decoder.unfinished == 0

    def test_a_complete_body_leaves_nothing_behind(self) -> None:
        decoder = Decoder()
        frame = encode_frame(1, 7, bytes(limits.MIB))
        decoder.feed(frame[:-1])
        decoder.feed(frame[-1:])
        assert (decoder._held, decoder.unfinished) == ([], 0)

    def test_a_body_in_single_bytes_costs_little_more_than_its_size(self) -> None:
        decoder = Decoder()
        decoder.feed(HEADER.pack(limits.MIB, 7, 1, 0))
        for _ in range(200_000):
            decoder.feed(b"x")
        assert sum(map(sys.getsizeof, decoder._held)) < 1.2 * decoder.unfinished

    def test_an_empty_body_is_a_frame(self) -> None:
        assert Decoder().feed(HEADER.pack(0, 3, 200, 255)) == [Frame(3, 200, 255, b"")]


FRAMES = st.lists(
    st.tuples(
        st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=40)
    ).map(lambda parts: HEADER.pack(len(parts[3]), *parts[:3]) + parts[3]),
    max_size=8,
)


def events_of(chunks: list[bytes]) -> list[Event]:
    decoder = Decoder(max_body=16)
    return [event for chunk in chunks for event in decoder.feed(chunk)]


@settings(max_examples=150)
@given(
    data=st.one_of(FRAMES.map(b"".join), st.binary(max_size=200)),
    cuts=st.lists(st.integers(0, 400), max_size=5),
)
def test_how_the_bytes_arrive_makes_no_difference(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    whole = events_of([data])
    assert events_of(pieces) == whole
    assert events_of([data[i : i + 1] for i in range(len(data))]) == whole


@settings(max_examples=100)
@given(body=st.binary(min_size=1, max_size=100), sent=st.integers(0, 99), after=FRAMES.map(b"".join))
def test_after_a_body_given_up_anywhere_the_next_frames_are_read(
    body: bytes, sent: int, after: bytes
) -> None:
    decoder = Decoder()
    sent = min(sent, len(body) - 1)
    decoder.feed(HEADER.pack(len(body), 5, 1, 0) + body[:sent])
    assert decoder.drop() == (5, 1)
    assert decoder.feed(body[sent:] + after) == Decoder().feed(after)


class TestRequest:
    def test_no_timeout(self) -> None:
        frame = only(encode_request(3, Request("a.B", "C", b"", None)))
        assert parse_request(frame.body).timeout is None

    def test_an_endless_deadline_is_no_timeout(self) -> None:
        frame = only(encode_request(3, Request("a.B", "C", b"", math.inf)))
        assert parse_request(frame.body).timeout is None

    def test_a_timeout_that_has_passed_does_not_become_none(self) -> None:
        frame = only(encode_request(3, Request("a.B", "C", b"", 0.0)))
        assert parse_request(frame.body).timeout == 1e-9

    def test_a_timeout_beyond_the_field_is_the_longest_one(self) -> None:
        frame = only(encode_request(3, Request("a.B", "C", b"", 1e30)))
        assert parse_request(frame.body).timeout == pytest.approx(2**63 / 1e9)

    def test_a_negative_timeout_is_none(self) -> None:
        body = ttrpc_pb2.Request(service="a", method="b", timeout_nano=-1).SerializeToString()
        assert parse_request(body).timeout is None

    def test_metadata_is_skipped(self) -> None:
        message = ttrpc_pb2.Request(service="a", method="b")
        message.metadata.add(key="k", value="v")
        assert parse_request(message.SerializeToString()) == Request("a", "b", b"", None)

    def test_metadata_without_end_is_refused(self) -> None:
        head = ttrpc_pb2.Request(service="a", method="b").SerializeToString()
        assert parse_request(head + b"\x2a\x00" * (limits.TTRPC_MAX_FIELDS - 2)).service == "a"
        with pytest.raises(EnvelopeError, match="too many fields"):
            parse_request(head + b"\x2a\x00" * (limits.TTRPC_MAX_FIELDS - 1))

    @pytest.mark.parametrize("name", ["", "a b", "a\nb", "a/b", "ä", "a" * 129, "1a"])
    def test_names_are_names(self, name: str) -> None:
        with pytest.raises(EnvelopeError, match="not a name"):
            parse_request(ttrpc_pb2.Request(service=name, method="M").SerializeToString())
        with pytest.raises(EnvelopeError, match="not a name"):
            parse_request(ttrpc_pb2.Request(service="S", method=name).SerializeToString())

    @pytest.mark.parametrize(
        "body",
        [
            b"\xff",
            b"\x0a\x05ab",
            b"\x0b\x0c",
            b"\x0a\x02\xff\xfe",
            b"\x08" + b"\xff" * 11,
            b"\x09\x01",
            b"\x00\x00",
        ],
    )
    def test_garbage_is_refused(self, body: bytes) -> None:
        with pytest.raises(EnvelopeError):
            parse_request(body)

    def test_a_body_above_the_limit_is_not_written(self) -> None:
        with pytest.raises(EnvelopeError, match="above 4194304"):
            encode_request(1, Request("a", "b", bytes(limits.TTRPC_MAX_BODY), None))
        with pytest.raises(EnvelopeError, match="above 4194304"):
            encode_response(1, bytes(limits.TTRPC_MAX_BODY))


def test_a_long_message_is_cut() -> None:
    frame = only(encode_status(1, 3, "ä" * 100_000))
    with pytest.raises(StatusError) as caught:
        parse_response(frame.body)
    assert 0 < len(caught.value.message) <= MAX_MESSAGE


def test_a_reply_that_is_no_message_is_refused() -> None:
    with pytest.raises(EnvelopeError):
        parse_response(b"\xff\xff")


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_only_declared_errors_leave_the_parsers(body: bytes) -> None:
    with contextlib.suppress(EnvelopeError):
        parse_request(body)
    with contextlib.suppress(EnvelopeError, StatusError):
        parse_response(body)


@settings(max_examples=100)
@given(
    stream=st.integers(0, 2**32 - 1),
    payload=st.binary(max_size=100),
    timeout=st.none() | st.floats(1e-9, 1e6),
)
def test_a_request_survives_the_wire(stream: int, payload: bytes, timeout: float | None) -> None:
    frame = only(encode_request(stream, Request("a.B", "C_d", payload, timeout)))
    back = parse_request(frame.body)
    assert (frame.stream, back.service, back.method, back.payload) == (stream, "a.B", "C_d", payload)
    assert back.timeout == (None if timeout is None else pytest.approx(timeout, abs=1e-9))
