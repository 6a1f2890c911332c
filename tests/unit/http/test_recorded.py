"""Messages of real programs are taken, whole and byte by byte, as they were meant."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.framing import feeding, recorded
from tests.framing.feeding import Outcome, one_by_one

REQUESTS = recorded.requests()
ANSWERS = recorded.answers()


def _name(each: recorded.Recorded) -> str:
    return f"{each.program}-{each.what}"


def _check(each: recorded.Recorded, outcome: Outcome) -> None:
    (message,) = outcome.messages
    assert (message.start, message.body) == (each.start, each.body)
    # An offer of another protocol, and what a proxy should have kept, is not passed on.
    left_out = sum(
        line.lower().startswith((b"upgrade:", b"proxy-connection:"))
        for line in each.data.rpartition(b"\r\n\r\n")[0].split(b"\r\n")
    )
    assert message.lines == each.fields - left_out
    assert outcome.end in {"idle", "closed"}


@pytest.mark.parametrize("each", REQUESTS, ids=_name)
def test_a_request_is_taken(each: recorded.Recorded) -> None:
    whole = feeding.requests([each.data])
    _check(each, whole)
    assert feeding.requests(one_by_one(each.data)) == whole


@pytest.mark.parametrize("each", ANSWERS, ids=_name)
def test_an_answer_is_taken(each: recorded.Recorded) -> None:
    whole = feeding.answers([each.data])
    _check(each, whole)
    assert feeding.answers(one_by_one(each.data)) == whole


def test_there_are_enough_of_enough_programs() -> None:
    for found in (REQUESTS, ANSWERS):
        programs = Counter(each.program for each in found)
        assert len(found) >= 100
        assert len(programs) >= 15
        assert len({each.data for each in found}) > 0.9 * len(found)
    assert "actix-web" in {each.program.split(" ")[0] for each in ANSWERS}
