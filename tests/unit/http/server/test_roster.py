"""Which connection goes when another needs its place."""

from __future__ import annotations

from agent.http.server.roster import Roster


class Seat:
    def __init__(self, since: float, *, stalled: bool = False) -> None:
        self.since = since
        self.stalled = stalled


def test_the_oldest_without_a_request_goes_first() -> None:
    roster: Roster[Seat] = Roster(1, 10)
    idle, old, young = Seat(0), Seat(1), Seat(2)
    for seat in (idle, old, young):
        roster.enter(seat)
    roster.rest(idle)
    assert roster.dispensable(10) is old
    roster.leave(old)
    roster.leave(young)
    assert roster.dispensable(10) is idle
    assert len(roster) == 1


def test_idle_ones_go_in_the_order_of_their_last_answers() -> None:
    roster: Roster[Seat] = Roster(1, 10)
    first, second = Seat(0), Seat(1)
    for seat in (first, second):
        roster.enter(seat)
        roster.rest(seat)
    first.since = 5
    roster.rest(first)
    assert roster.dispensable(10) is second


def test_a_place_is_kept_for_a_moment() -> None:
    roster: Roster[Seat] = Roster(1, 10)
    seat = Seat(0)
    roster.enter(seat)
    assert roster.dispensable(0.9) is None
    assert roster.dispensable(1.0) is seat


def test_requests_under_way_stay_and_those_that_wait_for_their_client_do_not() -> None:
    # T-HTTP-12
    roster: Roster[Seat] = Roster(1, 10)
    working, unread, later = Seat(0), Seat(2, stalled=True), Seat(3, stalled=True)
    for seat in (working, later, unread):
        roster.enter(seat)
        roster.begin(seat)
    assert roster.dispensable(10) is unread
    unread.stalled = later.stalled = False
    assert roster.dispensable(10) is None


def test_few_may_wait_for_their_client() -> None:
    # T-HTTP-22
    roster: Roster[Seat] = Roster(1, 2)
    seats = [Seat(n) for n in range(6)]
    for seat in seats[:3]:
        roster.enter(seat)
    assert roster.surplus(0.5) is None
    assert roster.surplus(10) is seats[0]
    roster.leave(seats[0])
    assert roster.surplus(10) is None
    for seat in seats[3:]:
        roster.enter(seat)
        roster.wait(seat)
    assert roster.surplus(10) is seats[3]
    roster.begin(seats[3])
    assert roster.surplus(10) is None
    assert set(roster) == set(seats[1:])
