"""How long to measure: enough for a figure at home, enough to notice a break in CI."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """Durations and counts.

    Attributes:
        load_s: seconds of each load.
        starts: how often the agent is started.
        colds: cold first requests.
        boots: pairs of boots at 20 ms.
        other_boots: pairs at other latencies.
        gaps: runs of the event-loop measurement.
        profiled: requests under the profiler.
        layers: how often an image layer of 1 GiB is decrypted.
        attack_s: seconds an attack goes on once it stands.
        rounds: pairs of the agent and nginx.
    """

    load_s: int = 3
    starts: int = 7
    colds: int = 7
    boots: int = 5
    other_boots: int = 3
    gaps: int = 3
    profiled: int = 2000
    layers: int = 7
    attack_s: float = 5
    rounds: int = 5


def choose() -> Plan:
    """The short plan when ``CI=true``."""
    if os.environ.get("CI", "").lower() == "true":
        return Plan(
            load_s=1, starts=3, colds=3, boots=3, other_boots=1, gaps=1, layers=5, attack_s=2, rounds=3
        )
    return Plan()


def cores() -> tuple[int | None, int | None]:
    """One processor for the agent and another for everything else; (None, None) when there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 else (None, None)
