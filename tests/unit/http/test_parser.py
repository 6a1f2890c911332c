"""Messages out of bytes: what is read, what is refused, and that pieces make no difference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.http.messages import (
    Bounds,
    FramingError,
    RequestHead,
    TooLargeError,
    TooManyLinesError,
)
from agent.http.parser import RequestReader, ResponseReader

BOUNDS = Bounds(head=512, start=100, fields=8, framing=64, interim=2, field=200)
GET = b"GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n"

Message = tuple[RequestHead | None, bytes]


def messages(raw: bytes, sizes: list[int] | None = None) -> list[Message] | str:
    """What a reader makes of bytes that come in pieces of these sizes, in turn; or the kind of refusal."""
    reader, found, rest = RequestReader(BOUNDS), [], raw
    turn = 0
    try:
        while rest:
            size = len(rest) if sizes is None else sizes[turn % len(sizes)]
            turn += 1
            piece, rest = rest[:size], rest[size:]
            while piece:
                piece = piece[reader.feed(piece) :]
                if reader.complete:
                    found.append((reader.head, reader.take()))
                    reader.clear()
    except FramingError as error:
        return type(error).__name__
    return found


def read(raw: bytes) -> list[Message]:
    found = messages(raw)
    assert isinstance(found, list)
    return found


def refusal(raw: bytes) -> str:
    found = messages(raw)
    assert isinstance(found, str)
    return found


def test_a_request_is_read() -> None:
    ((head, body),) = read(GET)
    assert head == RequestHead(
        method="GET",
        target="/a?b",
        version=(1, 1),
        headers={"host": ["h"]},
        length=0,
        keep=True,
        expects=False,
    )
    assert body == b""


def test_bodies_by_length_and_in_chunks_are_read() -> None:
    found = read(POST + CHUNKED + GET)
    assert [body for _, body in found] == [b"hello", b"abcde", b""]
    assert [head.length for head, _ in found if isinstance(head, RequestHead)] == [5, None, 0]


def test_trailers_are_no_headers() -> None:
    ((head, _),) = read(CHUNKED)
    assert isinstance(head, RequestHead)
    assert "x" not in head.headers


@pytest.mark.parametrize(
    ("raw", "keep", "expects"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", False, False),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", True, False),
        (b"GET / HTTP/1.1\r\nConnection: x, close\r\n\r\n", False, False),
        (b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", False, False),
        (b"PUT / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 0\r\n\r\n", True, True),
        (b"PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n", False, False),
        (b"PUT / HTTP/1.1\r\nExpect: tea\r\nContent-Length: 0\r\n\r\n", True, False),
        (b"GET / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", True, False),
    ],
)
def test_what_the_connection_is_to_do(raw: bytes, keep: bool, expects: bool) -> None:
    head, _ = read(raw)[0]
    assert isinstance(head, RequestHead)
    assert (head.keep, head.expects) == (keep, expects)


def test_an_offer_of_another_protocol_does_not_hide_the_body() -> None:
    raw = b"POST / HTTP/1.1\r\nUpgrade: x\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nab" + GET
    assert [body for _, body in read(raw)] == [b"ab", b""]


def test_bytes_behind_a_message_are_left() -> None:
    reader = RequestReader(BOUNDS)
    assert reader.feed(GET + b"\x00\xff") == len(GET)
    assert reader.complete


def test_empty_lines_ahead_are_ignored_and_start_nothing() -> None:
    reader = RequestReader(BOUNDS)
    assert reader.feed(b"\r\n\r\n") == 4
    assert not reader.started
    assert reader.feed(GET) == len(GET)
    assert reader.complete


def test_what_is_held_is_counted_until_it_is_taken() -> None:
    reader = RequestReader(BOUNDS)
    reader.feed(POST[:20])
    assert reader.held == 20
    reader.feed(POST[20:-2])
    assert (reader.received, reader.held) == (3, len(POST) - 2)
    assert reader.take() == b"hel"
    assert reader.held == len(POST) - 5
    reader.feed(POST[-2:])
    assert reader.complete
    reader.clear()
    assert (reader.held, reader.received, reader.started) == (0, 0, False)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\nHost: h\n\n",  # T-HTTP-4
        b"GET / HTTP/1.1\r\nHost: h\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : h\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\x00c\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"get / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.2\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",  # T-HTTP-3
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: \r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    ],
)
def test_what_two_readers_may_understand_differently_is_refused(raw: bytes) -> None:
    assert refusal(raw) == FramingError.__name__


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (
            b"GET / HTTP/1.1\r\n" + b"A: " + b"b" * 190 + b"\r\nB: " + b"b" * 190 + b"\r\nC: " + b"c" * 190,
            "head",
        ),
        (b"GET /" + b"a" * 100, "start"),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 200 + b"\r\n\r\n", "field"),
        (b"P / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1;" + b"x" * 70 + b"\r\na\r\n", "framing"),
        (b"P / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 12, "trailers"),
    ],
)
def test_what_is_too_large_is_refused_before_it_is_kept(raw: bytes, kind: str) -> None:
    # T-HTTP-1 and T-HTTP-5: an end is not waited for.
    if kind in {"framing", "trailers"}:
        raw = raw.replace(b"P /", b"POST /")
    assert refusal(raw) == TooLargeError.__name__


def test_header_lines_are_counted() -> None:
    lines = b"".join(b"X%d: y\r\n" % n for n in range(9))
    assert refusal(b"GET / HTTP/1.1\r\n" + lines + b"\r\n") == TooManyLinesError.__name__  # T-HTTP-2
    assert len(read(b"GET / HTTP/1.1\r\n" + lines[:-7] + b"\r\n")) == 1


def test_never_more_than_the_bound_is_held() -> None:
    reader = RequestReader(BOUNDS)
    with pytest.raises(TooLargeError):
        reader.feed(b"GET / HTTP/1.1\r\n" + b"A: bb\r\n" * 100_000)
    assert reader.held <= BOUNDS.head + 4


def test_a_reader_that_is_cleared_in_the_middle_keeps_nothing() -> None:
    reader = RequestReader(BOUNDS)
    reader.feed(POST[:-1])
    reader.clear()
    assert (reader.held, reader.started) == (0, False)


def test_interim_answers_are_counted() -> None:
    reader = ResponseReader(BOUNDS)
    interim = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    with pytest.raises(TooLargeError):  # T-HTTP-6
        reader.feed(interim * 3)


PIECES = st.sampled_from(
    [
        b"GET /a HTTP/1.1\r\n",
        b"POST /a HTTP/1.1\r\n",
        b"PUT / HTTP/1.0\r\n",
        b"Host: h\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Upgrade: h2c\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"abc",
        b"3\r\nabc\r\n",
        b"0\r\n",
        b"5;e=f\r\n",
        b" folded\r\n",
        GET,
        POST,
        CHUNKED,
        b"\x00",
        b"\xff",
    ]
)
STREAMS = st.one_of(st.lists(PIECES, max_size=12).map(b"".join), st.binary(max_size=200))


@given(STREAMS)
def test_whole_and_byte_by_byte_are_the_same(raw: bytes) -> None:
    assert messages(raw) == messages(raw, [1])


@given(STREAMS, st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_pieces_of_any_sizes_are_the_same(raw: bytes, sizes: list[int]) -> None:
    assert messages(raw) == messages(raw, sizes)
