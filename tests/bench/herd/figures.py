"""What docs/scale.json holds: figures of every storm and policy, over several seeds."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Final, TypeAlias

from agent.config import limits
from agent.kbs.retry import Backoff
from tests.bench.herd.engine import CELLS, Engine, Run
from tests.bench.herd.guests import OURS, UPSTREAM, OurTries, Policy, UpstreamTries
from tests.bench.herd.model import DOWN, FULL, Scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Figures: TypeAlias = dict[str, float]
Spread: TypeAlias = dict[str, list[float]]
Course: TypeAlias = dict[str, list[int]]

SEEDS: Final = (1, 2, 3)
NO_OUTAGE: Final = (0.0, 0.0)

STORMS: Final = {
    "500, outage": Scenario(10_000, 500.0),
    "2000, outage": Scenario(10_000, 2000.0),
    "500, no outage": Scenario(10_000, 500.0, NO_OUTAGE),
    "2000, no outage": Scenario(10_000, 2000.0, NO_OUTAGE),
}
ASSUMPTIONS: Final = {
    "500, the broker queues 20 000 requests": replace(STORMS["500, outage"], queue=20_000),
    "500, an attest costs no more than a GET": replace(STORMS["500, outage"], attest=1.0),
    "2000, an attest costs 20 GETs": replace(STORMS["2000, outage"], attest=20.0),
    "2000, the workload asks again every 10 s": replace(STORMS["2000, outage"], workload_longest=10.0),
}
"""What the result depends on; one seed."""

SMALL: Final = {
    "15, outage": Scenario(300, 15.0, queue=30),
    "60, outage": Scenario(300, 60.0, queue=30),
}
"""The same at 3 %: tests compare these with what is recorded."""

POLICIES: Final = {"ours": OURS, "upstream": UPSTREAM}
VARIANTS: Final = {
    "as built": OURS,
    "upstream's tries, one attestation": Policy(UpstreamTries(), keeps=True),
    "our tries, an attestation for each resource": Policy(OurTries(), keeps=False, remembers=True),
    "first pause up to 0.25 s": replace(OURS, tries=OurTries(Backoff(first=0.25))),
    "first pause up to 4 s": replace(OURS, tries=OurTries(Backoff(first=4.0))),
    "each request begins with the shortest pause": replace(OURS, remembers=False),
    "a broker that answered before has 10 s, too": replace(OURS, knows=False),
    "a busy broker has 4 s, too": replace(
        OURS, knows=False, tries=OurTries(lasts=limits.OUTAGE_SHARE * limits.RETRY_FOR)
    ),
}
"""Each difference to upstream alone, and other settings of ours; one seed."""


@dataclass(frozen=True, slots=True)
class Record:
    """docs/scale.json. Keys are those of the tables above, then of :func:`figures`.

    Attributes:
        seeds: of ``storms``; everything else has the first.
        storms: median, least and greatest of each figure.
        variants: of the storms with an outage.
        assumptions: the two policies under others.
        small: all policies.
        courses: of the storms with an outage.
    """

    seeds: list[int]
    storms: dict[str, dict[str, Spread]]
    variants: dict[str, dict[str, Figures]]
    assumptions: dict[str, dict[str, Figures]]
    small: dict[str, dict[str, Figures]]
    courses: dict[str, dict[str, Course]]


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def peak(run: Run, begin: float = 0.0) -> int:
    """Most requests that arrived in one second after ``begin``, in steps of a tenth of a second."""
    cells = run.arrived[round(begin * CELLS) :]
    most = window = sum(cells[:CELLS])
    for old, new in zip(cells, cells[CELLS:], strict=False):
        window += new - old
        most = max(most, window)
    return most


def figures(run: Run, scenario: Scenario) -> Figures:
    """What is reported of one storm. Times in seconds, rates per second."""
    waits = sorted(served - booted for served, booted in zip(run.served, run.booted, strict=True))
    requests, end, up = sum(run.ended), max(run.served), scenario.outage[1]
    return {
        "all_served_s": round(end, 1),
        "guest_p50_s": round(quantile(waits, 0.5), 2),
        "guest_p99_s": round(quantile(waits, 0.99), 2),
        "peak_rps": float(peak(run)),
        "peak_after_outage_rps": float(peak(run, up)),
        "mean_rps": float(round(requests / end)),
        "requests": float(requests),
        "attestations": float(sum(run.attested)),
        "refused_share": round((run.ended[FULL] + run.ended[DOWN]) / requests, 3),
        "overload_s": round(max(0.0, run.overloaded_until - up), 1),
    }


def spread(several: Iterable[Figures]) -> Spread:
    """Median, least and greatest of each figure."""
    runs = list(several)
    columns = {name: [run[name] for run in runs] for name in runs[0]}
    return {name: [statistics.median(of), min(of), max(of)] for name, of in columns.items()}


def played(scenario: Scenario, policies: Mapping[str, Policy]) -> dict[str, Figures]:
    """One storm with the first seed."""
    return {
        label: figures(Engine(scenario, policy, SEEDS[0]).run(), scenario)
        for label, policy in policies.items()
    }


def small() -> dict[str, dict[str, Figures]]:
    """Every policy in the small storms."""
    return {name: played(scenario, POLICIES | VARIANTS) for name, scenario in SMALL.items()}


def course(run: Run) -> Course:
    """Second by second: requests that arrived, and guests that have everything by its end."""
    seconds = math.ceil(max(run.served))
    arrived = [sum(run.arrived[at * CELLS : (at + 1) * CELLS]) for at in range(seconds)]
    served = [0] * seconds
    for at in run.served:
        served[min(int(at), seconds - 1)] += 1
    return {"arrived": arrived, "served": list(accumulate(served))}


def record(say: Callable[[str], None]) -> Record:
    """Play everything.

    Args:
        say: told the name of each storm when it is over.
    """
    made = Record(list(SEEDS), {}, {}, {}, small(), {})
    for name, scenario in STORMS.items():
        made.storms[name] = {}
        for label, policy in POLICIES.items():
            runs = [Engine(scenario, policy, seed).run() for seed in SEEDS]
            made.storms[name][label] = spread(figures(run, scenario) for run in runs)
            if scenario.outage != NO_OUTAGE:
                made.courses.setdefault(name, {})[label] = course(runs[0])
        say(name)
    for name in made.courses:
        made.variants[name] = played(STORMS[name], VARIANTS)
        say(f"{name}: variants")
    for name, scenario in ASSUMPTIONS.items():
        made.assumptions[name] = played(scenario, POLICIES)
        say(name)
    return made
