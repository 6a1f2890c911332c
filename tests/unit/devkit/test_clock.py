from __future__ import annotations

import pytest

from agent.clock import Clock, Deadline
from agent.devkit.clock import FakeClock


def test_time_stands_still_until_it_is_advanced() -> None:
    clock: Clock = FakeClock()
    assert (clock.boot(), clock.wall()) == (1000.0, 1_790_000_000.0)
    assert (clock.boot(), clock.wall()) == (1000.0, 1_790_000_000.0)


def test_both_clocks_advance_together_and_only_the_wall_clock_jumps() -> None:
    clock = FakeClock(boot=1.0, wall=50.0)
    clock.advance(2.5)
    clock.jump_wall(-40.0)
    assert (clock.boot(), clock.wall()) == (3.5, 12.5)
    with pytest.raises(ValueError, match="never goes back"):
        clock.advance(-1)


def test_deadlines_are_spent_by_advancing() -> None:
    clock = FakeClock()
    deadline = Deadline.after(clock, 10)
    clock.advance(4)
    assert deadline.remaining() == 6
    clock.advance(40)
    assert deadline.remaining() == 0
