"""Time limits of a connection."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.http.server.phase import Phase, Times, due

TIMES = Times(
    idle=75,
    head=5,
    body_grace=4,
    body_rate=10,
    write_grace=3,
    write_rate=100,
    linger=1,
    place=0.1,
    pace=0.25,
)


def test_each_phase_has_its_time() -> None:
    assert due(TIMES, Phase.IDLE, 100, 0) == 175
    assert due(TIMES, Phase.HEAD, 100, 0) == 105  # T-HTTP-13
    assert due(TIMES, Phase.DRAIN, 100, 0) == 101
    assert due(TIMES, Phase.LINGER, 100, 0) == 101


def test_bodies_and_answers_have_a_least_rate() -> None:
    assert due(TIMES, Phase.WORK, 100, 0) == 104  # T-HTTP-14
    assert due(TIMES, Phase.WORK, 100, 50) == 109
    assert due(TIMES, Phase.WRITE, 100, 0) == 103  # T-HTTP-15
    assert due(TIMES, Phase.WRITE, 100, 200) == 105


@given(st.sampled_from([Phase.IDLE, Phase.HEAD, Phase.DRAIN, Phase.LINGER]), st.integers(0, 10**9))
def test_bytes_buy_no_time_for_a_head(phase: Phase, size: int) -> None:
    assert due(TIMES, phase, 0, size) == due(TIMES, phase, 0, 0)
