"""The account of held bytes: who fits, who goes, and what is reserved."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.http.budget import Budget


class Peer:
    def __init__(self, budget: Budget, *, reserved: bool = False, stalled: bool = True) -> None:
        self.reserved = reserved
        self.stalled = stalled
        self.gone = False
        self._budget = budget

    def evict(self) -> None:
        self.gone = True
        self._budget.leave(self)


def test_what_fits_is_held_and_what_is_left_is_free_again() -> None:
    budget = Budget(100, 0)
    one, two = Peer(budget), Peer(budget)
    assert budget.hold(one, 60)
    assert budget.hold(two, 40)
    assert budget.used == 100
    assert budget.hold(one, 10)
    budget.leave(two)
    assert (budget.used, budget.evicted) == (10, 0)


def test_the_one_without_progress_for_longest_goes() -> None:
    budget = Budget(100, 0)
    first, second, third, newcomer = (Peer(budget) for _ in range(4))
    for peer in (first, second, third):
        assert budget.hold(peer, 30)
    assert budget.hold(first, 30)  # it made progress
    assert budget.hold(newcomer, 30)
    assert [peer.gone for peer in (first, second, third)] == [False, True, False]
    assert (budget.used, budget.evicted) == (90, 1)


def test_a_request_that_is_worked_on_stays() -> None:
    budget = Budget(100, 0)
    working, waiting, newcomer = Peer(budget, stalled=False), Peer(budget), Peer(budget)
    assert budget.hold(working, 60)
    assert budget.hold(waiting, 20)
    assert budget.hold(newcomer, 40)
    assert (working.gone, waiting.gone) == (False, True)


def test_without_room_it_holds_what_it_held() -> None:
    budget = Budget(100, 0)
    working, newcomer = Peer(budget, stalled=False), Peer(budget)
    assert budget.hold(working, 90)
    assert budget.hold(newcomer, 10)
    assert not budget.hold(newcomer, 11)
    assert (budget.used, newcomer.gone) == (100, False)
    assert budget.hold(newcomer, 5)


def test_a_part_is_reserved_and_workloads_push_out_workloads_only() -> None:
    budget = Budget(100, 40)
    kata = Peer(budget, reserved=True)
    assert budget.hold(kata, 30)
    workload, other = Peer(budget), Peer(budget)
    assert budget.hold(workload, 60)
    assert not budget.hold(other, 61)  # T-HTTP-11: even alone it is more than the common part
    assert not kata.gone
    assert budget.hold(other, 60)
    assert workload.gone
    assert not kata.gone


def test_reserved_holders_push_out_workloads() -> None:
    budget = Budget(100, 40)
    workload, kata = Peer(budget), Peer(budget, reserved=True)
    assert budget.hold(workload, 60)
    assert budget.hold(kata, 90)
    assert workload.gone


def test_what_is_set_aside_is_missing_until_it_is_given_back() -> None:
    budget = Budget(100, 0)
    peer = Peer(budget)
    budget.set_aside(50)
    assert not budget.hold(peer, 60)
    budget.set_aside(-50)
    assert budget.hold(peer, 60)


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 120))),
        max_size=60,
    )
)
def test_the_sums_are_right_whatever_happens(steps: list[tuple[int, int | None]]) -> None:
    budget = Budget(200, 50)
    peers = [Peer(budget, reserved=n < 2, stalled=n % 2 == 0) for n in range(6)]
    held = dict.fromkeys(peers, 0)
    for number, size in steps:
        peer = peers[number]
        if size is None:
            budget.leave(peer)
            held[peer] = 0
        elif budget.hold(peer, size):
            held[peer] = size
        for other in peers:
            if other.gone:
                assert other.stalled
                held[other], other.gone = 0, False
        assert budget.used == sum(held.values()) <= 200
        common = sum(size for other, size in held.items() if not other.reserved)
        assert common <= 150
