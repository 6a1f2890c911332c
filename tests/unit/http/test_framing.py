"""The framing corpus on both readers: whole, byte by byte, cut anywhere, the same."""

from __future__ import annotations

import gc
import random
import tracemalloc
import weakref
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.http.messages import FramingError, TooLargeError
from agent.http.parser import RequestReader, ResponseReader
from tests.framing import answer_cases, request_cases
from tests.framing.cases import lines
from tests.framing.change import change
from tests.framing.feeding import BOUNDS, Outcome, answers, one_by_one, pieces, requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.framing.cases import Case

    Read = Callable[[Iterable[bytes]], Outcome]


def tunnel(parts: Iterable[bytes]) -> Outcome:
    return answers(parts, tunnel=True)


TABLES: tuple[tuple[str, Read, tuple[Case, ...]], ...] = (
    ("request", requests, request_cases.CASES),
    ("answer", answers, answer_cases.CASES),
    ("tunnel", tunnel, answer_cases.TUNNELS),
)
EVERY = [
    pytest.param(read, case, id=f"{table}-{case.name}") for table, read, cases in TABLES for case in cases
]


@pytest.mark.parametrize(("read", "case"), EVERY)
def test_is_what_it_has_to_be_whole_and_byte_by_byte(read: Read, case: Case) -> None:
    assert read([case.data]).brief() == (case.messages, case.end)
    assert read(one_by_one(case.data)).brief() == (case.messages, case.end)


@pytest.mark.parametrize(("read", "case"), EVERY)
def test_is_the_same_cut_anywhere(read: Read, case: Case) -> None:
    whole = read([case.data])
    step = max(1, len(case.data) // 400)  # the long ones are long by repetition
    for cut in range(1, len(case.data), step):
        assert read(pieces(case.data, [cut])) == whole, cut


def test_names_of_cases_are_theirs_alone() -> None:
    for _, _, cases in TABLES:
        assert len({case.name for case in cases}) == len(cases)


@st.composite
def _cut(draw: st.DrawFn, cases: tuple[Case, ...]) -> tuple[bytes, list[int]]:
    """Cases behind each other, changed or not, and where to cut."""
    chosen = draw(st.lists(st.sampled_from([case.data for case in cases]), min_size=1, max_size=3))
    data = b"".join(chosen)
    if draw(st.booleans()):
        data = change(data, chosen, draw(st.randoms(use_true_random=False)))
    return data, draw(st.lists(st.integers(0, len(data)), max_size=12))


@given(_cut(request_cases.CASES))
def test_requests_are_the_same_in_any_pieces(drawn: tuple[bytes, list[int]]) -> None:
    data, cuts = drawn
    assert requests(pieces(data, cuts)) == requests([data])


@given(_cut(answer_cases.CASES))
def test_answers_are_the_same_in_any_pieces(drawn: tuple[bytes, list[int]]) -> None:
    data, cuts = drawn
    assert answers(pieces(data, cuts)) == answers([data])
    assert tunnel(pieces(data, cuts)) == tunnel([data])


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=12))
def test_any_bytes_make_messages_or_a_framing_error(data: bytes, cuts: list[int]) -> None:
    for read in (requests, answers, tunnel):
        assert read(pieces(data, cuts)) == read([data])


def test_changed_messages_make_messages_or_a_framing_error() -> None:
    draw = random.Random(1)  # noqa: S311 - to be repeated
    for _, read, cases in TABLES:
        pool = [case.data for case in cases if len(case.data) < 1000]
        for _ in range(2000):
            data = change(draw.choice(pool), pool, draw)
            whole = read([data])
            assert read(one_by_one(data)) == whole, data
            assert read(pieces(data, [draw.randrange(len(data) + 1)])) == whole, data


def test_what_follows_a_tunnel_is_left() -> None:
    reader = ResponseReader(BOUNDS, tunnel=True)
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\n\x16\x03\x01") == 19
    assert reader.complete
    assert reader.head is not None
    assert reader.head.keep


def test_an_answer_that_ends_with_its_connection_says_so() -> None:
    (message,) = answers([b"HTTP/1.1 200 OK\r\n\r\nabc"]).messages
    assert not message.keep


def test_what_is_too_large_is_said_to_be() -> None:
    for data in (
        b"GET /" + b"x" * 9000,
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 17000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"y" * 17000,
    ):
        with pytest.raises(TooLargeError):
            RequestReader(BOUNDS).feed(data)
    with pytest.raises(TooLargeError):
        ResponseReader(BOUNDS).feed(b"HTTP/1.1 100 Continue\r\n\r\n" * 9)


def test_a_refusal_holds_none_of_the_input() -> None:
    said = set()
    for reader, cases in ((RequestReader, request_cases.CASES), (ResponseReader, answer_cases.CASES)):
        for case in cases:
            if case.end == "refused" and not case.messages:
                with pytest.raises(FramingError) as refusal:
                    reader(BOUNDS).feed(case.data)
                said.add(str(refusal.value))
    assert said == SAID


SAID = frozenset(
    {
        "HTTP/1.0 knows no chunks",
        "a line ends without CR",
        "an interim answer announces a body",
        "the body is framed in a way that is not chunked",
        "the chunks are too small for what surrounds them",
        "the head has too many lines",
        "the head is too long",
        "the length of the body is not a number",
        "the protocol was changed, which nobody asked for",
        "the request line is not HTTP/1.1",
        "the start line is too long",
        "the status line is not HTTP/1.1",
        "this is not HTTP as it should be",
        "this is not HTTP",
        "this is TLS, not HTTP",
        "too many interim answers",
    }
)


def test_bytes_go_with_their_connection() -> None:
    gc.collect()
    gc.disable()
    try:
        reader: RequestReader | None = RequestReader(BOUNDS)
        assert reader is not None
        reader.feed(b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n" + bytes(50))
        gone = weakref.ref(reader)
        reader = None
        assert gone() is None
    finally:
        gc.enable()


HEAD = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_an_unfinished_trailer_counts() -> None:
    reader = RequestReader(BOUNDS)
    reader.feed(HEAD + b"0\r\nX: " + b"y" * 9000)
    assert reader.held == len(HEAD) + 9006


def test_a_body_in_small_pieces_weighs_what_it_holds() -> None:
    reader = RequestReader(BOUNDS)
    reader.feed(b"POST / HTTP/1.1\r\nContent-Length: 70000\r\n\r\n")
    tracemalloc.start()
    try:
        for _ in range(32768):
            reader.feed(b"ab")
        weight = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert reader.received == 65536
    assert weight < 2 * 65536


def test_no_more_of_a_head_is_kept_than_its_bound_however_much_comes() -> None:
    reader = RequestReader(BOUNDS)
    with pytest.raises(TooLargeError):
        reader.feed(b"GET / HTTP/1.1\r\nX: " + b"y" * 1_000_000)
    assert len(reader._raw) <= BOUNDS.head + len(b"\r\n\r\n")


def test_what_was_taken_is_no_longer_held() -> None:
    reader = RequestReader(BOUNDS)
    head = b"POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\n"
    reader.feed(head + b"abc")
    assert reader.held == len(head) + 3
    assert reader.take() == b"abc"
    assert reader.held == len(head)
    assert reader.take() == b""
    reader.feed(b"def")
    assert (reader.take(), reader.received, reader.complete) == (b"def", 6, True)


def test_the_head_says_what_was_sent() -> None:
    head = requests(
        [
            b"PUT /a?b HTTP/1.1\r\n"
            + lines(b"Host: c", b"Expect: 100-Continue", b"X-Y:  \t1 ", b"x-y: 2", b"Content-Length: 0")
        ]
    ).messages[0]
    assert head.start == "PUT /a?b"
    assert head.headers == {
        "host": ["c"],
        "expect": ["100-Continue"],
        "x-y": ["1", "2"],
        "content-length": ["0"],
    }
    assert (head.expects, head.keep, head.version) == (True, True, (1, 1))
