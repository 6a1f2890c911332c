from __future__ import annotations

from agent.http.budget import Budget


class Peer:
    stalled = True

    def __init__(self, *, reserved: bool) -> None:
        self.reserved = reserved
        self.gone = False

    def evict(self) -> None:
        self.gone = True


def test_what_reserved_holders_have_beyond_the_reserve_is_everybodys() -> None:
    budget = Budget(100, 20)
    agents = [Peer(reserved=True) for _ in range(5)]
    assert all(budget.hold(peer, 20) for peer in agents)
    workload = Peer(reserved=False)
    assert budget.hold(workload, 80)
    assert [peer.gone for peer in agents] == [True] * 4 + [False]
    assert budget.used == 100


def test_the_reserve_itself_is_not() -> None:
    budget = Budget(100, 20)
    agent, workload = Peer(reserved=True), Peer(reserved=False)
    assert budget.hold(agent, 20)
    assert not budget.hold(workload, 81)
    assert not agent.gone
    assert budget.hold(workload, 80)


def test_a_fall_from_much_to_little_is_told_once() -> None:
    fell: list[int] = []
    budget = Budget(100, 0, 40, lambda: fell.append(budget.used))
    first, second = Peer(reserved=True), Peer(reserved=True)
    assert budget.hold(first, 39)
    budget.leave(first)
    assert fell == []
    assert budget.hold(first, 60)
    assert budget.hold(second, 20)
    budget.leave(first)
    assert fell == []
    assert budget.hold(second, 10)
    budget.leave(second)
    assert fell == [10]
