"""Ours takes nothing that aiohttp refuses, and finds the same messages where both take them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.framing import aiohttp_readers, answer_cases, feeding, recorded, request_cases
from tests.framing.compare import Seen, changed, complaint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.framing.cases import Case
    from tests.framing.compare import Excused
    from tests.framing.feeding import Message, Outcome

    Compare = tuple[
        Callable[[Iterable[bytes]], Outcome],
        Callable[[bytes, asyncio.AbstractEventLoop], Seen],
        tuple[Case, ...],
        Excused,
    ]


def _nothing(message: Message) -> bool:
    return False


def _answers(parts: Iterable[bytes]) -> Outcome:
    """An answer that is unfinished when its connection ends is refused."""
    outcome = feeding.answers(parts)
    return replace(outcome, end="refused") if outcome.end == "unfinished" else outcome


REQUESTS: Compare = (feeding.requests, aiohttp_readers.requests, request_cases.CASES, _nothing)
ANSWERS: Compare = (_answers, aiohttp_readers.answers, answer_cases.CASES, _nothing)
BOTH = pytest.mark.parametrize("compare", [REQUESTS, ANSWERS], ids=["requests", "answers"])


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@BOTH
def test_the_corpus(compare: Compare, loop: asyncio.AbstractEventLoop) -> None:
    ours, theirs, cases, excused = compare
    found = {
        case.name: complaint(ours([case.data]), theirs(case.data, loop), excused)
        for case in cases
        if len(case.data) < feeding.BOUNDS.start  # bounds need not be to the byte the same
    }
    assert {name: each for name, each in found.items() if each} == {}


def test_messages_of_real_programs(loop: asyncio.AbstractEventLoop) -> None:
    for (ours, theirs, _, excused), found in (
        (REQUESTS, recorded.requests()),
        (ANSWERS, recorded.answers()),
    ):
        for each in found:
            assert complaint(ours([each.data]), theirs(each.data, loop), excused) is None, each


@BOTH
def test_messages_changed_at_random(compare: Compare, loop: asyncio.AbstractEventLoop) -> None:
    ours, theirs, cases, excused = compare
    pool = [case.data for case in cases if len(case.data) < 600]
    taken = 0
    for data in changed(pool, seed=1):
        outcome = ours([data])
        taken += bool(outcome.messages)
        assert complaint(outcome, theirs(data, loop), excused) is None, data
    assert taken > 100  # or there was little to compare


def test_a_difference_is_seen() -> None:
    ours = feeding.requests([b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"])
    assert complaint(ours, Seen((("GET /x", b""),), "open"), _nothing) is None
    assert complaint(ours, Seen((), "closed"), _nothing) is None
    for theirs in (
        Seen((), "refused"),
        Seen((), "open"),
        Seen((("GET /x", b"a"),), "open"),
        Seen((("GET /x", b""), ("GET /y", b"")), "open"),
    ):
        assert complaint(ours, theirs, _nothing) is not None
    stricter = feeding.requests([b"GET /x HTTP/1.1\nHost: a\n\n"])
    assert complaint(stricter, Seen((("GET /x", b""),), "open"), _nothing) is None
