"""One container attacks: the agent lives, answers others in time, stays small, and is small again afterwards.

The agent is the real program in a memory cgroup of 256 MiB; the attackers are not in it. ``make attack``
shows the same rows as figures.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests import cgroup
from tests.bench.attack.kinds import ATTACKS
from tests.bench.attack.run import measure, summary
from tests.bench.figures import Figures
from tests.bench.parts import bench
from tests.bench.plan import choose, cores
from tests.integration.support import run

if TYPE_CHECKING:
    from tests.bench.attack.kinds import Attack
    from tests.bench.attack.result import Result

TRIES = 3
"""Other work on this machine can only make an answer later: what is in time once can be in time."""


@pytest.fixture(autouse=True)
def _cgroup() -> None:
    if reason := cgroup.missing():
        pytest.skip(reason)


async def measured(attack: Attack) -> Result:
    async with bench(replace(choose(), attack_s=2.0), Figures(), cores()) as one:
        return await measure(one, attack)


@pytest.mark.parametrize("name", ATTACKS)
async def test_under_attack_it_lives_answers_and_stays_small(name: str) -> None:
    for _ in range(TRIES):
        result = await measured(ATTACKS[name])
        print(summary(result))
        # At the first try: no machine's load excuses it.
        assert not result.broken(), [*result.broken(), *result.late()]
        if not result.late():
            return
    assert result.late() == []


async def test_a_few_such_connections_are_harmless() -> None:
    """What is measured is the attack: without one to speak of, every rule holds."""
    for _ in range(TRIES):
        result = await measured(replace(ATTACKS["bodies"], count=4))
        print(summary(result))
        assert result.broken() == []
        assert result.opened >= 4
        assert result.sent_mb > 4  # so the attackers do what they are for
        if not result.late():
            return
    assert result.late() == []


async def test_the_group_ends_what_takes_more_and_counts_it() -> None:
    greedy = "len(bytearray(128 << 20)); print('had it')"
    with cgroup.memory(64 << 20) as group:
        status, output, _ = await run(*group.command(sys.executable, "-c", greedy))
        assert (status, output, group.killed()) == (-9, b"", 1)
        status, output, _ = await run(*group.command(sys.executable, "-c", "print('had it')"))
        assert (status, output, group.killed()) == (0, b"had it\n", 1)
        assert group.processes() == []
    assert not group.path.exists()
