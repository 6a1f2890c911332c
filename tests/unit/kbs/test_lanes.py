from __future__ import annotations

import hashlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import limits
from agent.kbs.lanes import Lanes, Ticket
from tests.unit.kbs import PROPERTY

ALL = limits.KBS_CONNECTIONS - limits.KBS_HANDSHAKES
LAST = ALL - limits.KBS_SLOW
LONG = limits.KBS_SLOW_AFTER


def name(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()


class Broker:
    """Lanes, and what is under way in them."""

    def __init__(self) -> None:
        self.lanes = Lanes()
        self.now = 100.0
        self.running: set[Ticket] = set()
        self.made_room: list[bytes | None] = []

    def ask(self, *names: int | None) -> list[Ticket]:
        asked = []
        for one in names:
            asked.append(self.lanes.enter(None if one is None else name(one)))
            self.settle()
        return asked

    def settle(self) -> None:
        """Those that make room ask again at once, as the client does."""
        while True:
            began, leaving = self.lanes.settle(self.now)
            self.running.update(began)
            assert len(self.running) <= limits.KBS_CONNECTIONS
            if not began and not leaving:
                return
            for ticket in leaving:
                assert not ticket.slow
                self.made_room.append(ticket.name)
                self.running.remove(ticket)
                self.lanes.leave(ticket, self.now, ended=False)
                assert self.lanes.enter(ticket.name).slow

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.settle()

    def answer(self, *tickets: Ticket) -> None:
        for ticket in tickets:
            self.running.remove(ticket)
            self.lanes.leave(ticket, self.now, ended=True)
        self.settle()

    def names(self) -> set[bytes | None]:
        return {ticket.name for ticket in self.running}


@pytest.fixture
def broker() -> Broker:
    return Broker()


def test_there_is_room_for_so_many_resources_and_for_handshakes_beside_them(broker: Broker) -> None:
    asked = broker.ask(*range(ALL + 5))
    assert broker.running == set(asked[:ALL])
    shaking = broker.ask(*[None] * (limits.KBS_HANDSHAKES + 1))
    assert [one in broker.running for one in shaking] == [True] * limits.KBS_HANDSHAKES + [False]
    broker.answer(asked[0])
    assert shaking[-1] in broker.running  # a handshake goes first
    assert len(broker.running) == limits.KBS_CONNECTIONS


def test_a_newcomer_gets_in_before_slow_ones_that_came_earlier(broker: Broker) -> None:
    broker.ask(*range(300))
    broker.wait(LONG / 2)
    (newcomer,) = broker.ask(1000)
    assert newcomer not in broker.running
    assert broker.lanes.next_look() == 100.0 + LONG
    broker.wait(LONG / 2)
    assert newcomer in broker.running
    assert len(broker.made_room) == LAST


def test_slow_names_have_their_share_and_each_makes_room_once(broker: Broker) -> None:
    broker.ask(*range(300))
    for _ in range(60):
        broker.wait(LONG)
    assert len(broker.made_room) == len(set(broker.made_room)) == 300 - ALL
    assert broker.lanes.next_look() is None  # the last ones stay until somebody waits
    fast = broker.ask(*range(1000, 1000 + LAST))
    assert broker.running.issuperset(fast)
    assert len(broker.made_room) == len(set(broker.made_room)) == 300 - limits.KBS_SLOW


def test_slow_ones_stay_as_long_as_nobody_waits(broker: Broker) -> None:
    asked = broker.ask(*range(ALL))
    broker.wait(100 * LONG)
    assert broker.running == set(asked)
    assert broker.made_room == []
    broker.ask(1000)  # now somebody does
    assert len(broker.made_room) == 1
    assert name(1000) in broker.names()


def test_those_that_made_room_come_before_slow_ones_under_way(broker: Broker) -> None:
    asked = broker.ask(*range(ALL + LAST))
    broker.wait(LONG)  # so many made room, for the last ones
    broker.wait(LONG)  # which are slow, too
    broker.answer(next(one for one in asked if one.slow and one in broker.running))
    assert len(broker.running) == ALL
    assert len(broker.names().intersection(broker.made_room)) == 1


def test_a_name_is_slow_until_it_was_fast(broker: Broker) -> None:
    (first,) = broker.ask(1)
    broker.wait(LONG)
    broker.answer(first)
    (second,) = broker.ask(1)
    assert second.slow
    broker.answer(second)
    (third,) = broker.ask(1)
    assert not third.slow
    # One that was cancelled soon says nothing.
    broker.running.discard(third)
    broker.lanes.leave(third, broker.now, ended=False)
    assert not broker.ask(1)[0].slow


def test_connecting_says_nothing_about_a_name(broker: Broker) -> None:
    asked = broker.ask(*range(300))
    broker.now += LONG
    for one in broker.lanes.fetching:
        broker.lanes.restart(one, broker.now)
    broker.settle()
    assert broker.made_room == []
    broker.answer(asked[0])
    assert not broker.ask(0)[0].slow


def test_those_that_wait_are_taken_from_both_ends(broker: Broker) -> None:
    asked = broker.ask(*range(ALL))
    waiting = broker.ask(*range(100, 106))
    for one in asked[:4]:
        broker.answer(one)
    assert [waiting.index(one) for one in waiting if one in broker.running] == [0, 1, 4, 5]


def test_slow_and_unknown_ones_take_turns(broker: Broker) -> None:
    for number in range(40):
        broker.lanes._known.add(name(number))
    slow, unknown = broker.ask(*range(40)), broker.ask(*range(100, 140))
    assert sum(one in broker.running for one in slow) == limits.KBS_SLOW
    running = [one for one in slow if one in broker.running]
    for one in running[:4]:
        broker.answer(one)
    assert sum(one in broker.running for one in slow) + 4 - limits.KBS_SLOW == 4 - 2
    assert sum(one in broker.running for one in unknown) == LAST + 2


def test_made_up_names_do_not_take_more_memory(broker: Broker) -> None:
    """T-KBS-105: a later name takes the place of an earlier one, and is not taken for it."""
    before = sys.getsizeof(broker.lanes._known._marks)
    for number in range(4 * limits.KBS_SLOW_NAMES):
        broker.lanes._known.add(name(number))
    assert sys.getsizeof(broker.lanes._known._marks) == before
    remembered = sum(broker.lanes.enter(name(number)).slow for number in range(4 * limits.KBS_SLOW_NAMES))
    assert limits.KBS_SLOW_NAMES // 2 < remembered <= limits.KBS_SLOW_NAMES
    assert broker.lanes.enter(name(4 * limits.KBS_SLOW_NAMES - 1)).slow


def test_one_that_waits_can_leave(broker: Broker) -> None:
    broker.ask(*range(ALL))
    (gone,) = broker.ask(500)
    broker.lanes.leave(gone, broker.now, ended=False)
    assert not broker.lanes.crowded
    assert broker.lanes.next_look() is None


def check(broker: Broker, asked: int) -> None:
    """Places are shared as they should, none is free that somebody may have, and nobody is lost."""
    lanes = broker.lanes
    fetching = [one for one in broker.running if one.name is not None]
    slow = sum(one.slow for one in fetching)
    waiting = len(lanes._handshakes) + len(lanes._fresh) + len(lanes._slow)
    assert len(fetching) <= ALL
    assert slow <= limits.KBS_SLOW
    assert waiting + len(broker.running) == asked
    if len(broker.running) < limits.KBS_CONNECTIONS:
        assert not lanes._handshakes
        if len(fetching) < ALL:
            assert not lanes._fresh
            assert not lanes._slow or slow == limits.KBS_SLOW
    if lanes.crowded and len(fetching) == ALL:
        assert lanes.next_look() is not None


ASK = st.lists(st.none() | st.integers(0, 200), max_size=60)


@PROPERTY
@given(st.lists(st.tuples(ASK, st.floats(0, 3), st.integers(0, 40)), max_size=12))
def test_whatever_comes_places_are_shared_and_used(steps: list[tuple[list[int | None], float, int]]) -> None:
    broker = Broker()
    asked = 0
    for names, seconds, answers in steps:
        asked += len(broker.ask(*names))
        check(broker, asked)
        broker.wait(seconds)
        check(broker, asked)
        done = sorted(broker.running, key=lambda one: (one.began, one.name or b""))[:answers]
        broker.answer(*done)
        asked -= len(done)
        check(broker, asked)


def test_nobody_waits_for_ever_though_others_keep_coming(broker: Broker) -> None:
    broker.ask(*range(ALL))
    (early,) = broker.ask(500)
    broker.ask(*range(1000, 1040))
    for number in (2000, 2001):
        broker.ask(number)
        broker.answer(min(broker.running, key=lambda one: one.began))
    assert early in broker.running
    assert name(2001) in broker.names()
