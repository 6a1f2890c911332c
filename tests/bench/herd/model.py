"""What is assumed about guests, broker and workload. Every number of docs/scale.md's model table is here."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

# What a flow asks the engine for. PAUSE is no request.
PAUSE: Final = -1
AUTH: Final = 0
ATTEST: Final = 1
GET: Final = 2

# How a request ended.
OK: Final = 0
FULL: Final = 1
DOWN: Final = 2
LOST: Final = 3
LATE: Final = 4

ROUND_TRIP: Final = 0.010
"""Seconds between guest and broker and back."""

QUOTE: Final = 0.020
"""Seconds a guest needs for one piece of evidence."""

CALLER: Final = 50.0
"""Seconds a caller waits for one resource: kata-agent, image-rs, api-server-rest (kata_integration.md 3)."""

WORKLOAD_FIRST: Final = 10.0
"""Seconds before a failed workload asks again; doubled each time, as the kubelet does."""

WORKLOAD_SYNC: Final = 10.0
"""Seconds, at most and at random, until the kubelet looks whether a back-off is over."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One storm.

    Attributes:
        guests: how many boot.
        capacity: GETs, or auths, the broker does per second.
        outage: first second without the broker and first second with it again; equal for none.
        boot: seconds within which all guests boot, uniformly.
        resources: of each guest, fetched one after another.
        queue: requests that may wait at the broker; one more is refused.
        attest: GETs that one attestation costs the broker.
        workload_longest: seconds, the longest back-off of a failed workload; the kubelet's default.
    """

    guests: int
    capacity: float
    outage: tuple[float, float] = (20.0, 80.0)
    boot: float = 60.0
    resources: int = 5
    queue: int = 1000
    attest: float = 4.0
    workload_longest: float = 300.0

    @property
    def costs(self) -> tuple[float, float, float]:
        """Work of AUTH, ATTEST and GET, in GETs."""
        return (1.0, self.attest, 1.0)


class Broker:
    """One server, first come first served, with a bounded queue and an outage.

    What is waiting or being served when the outage begins is lost. While it is down, connections are refused.
    A request whose caller has gone is served all the same.
    """

    __slots__ = ("_back", "_capacity", "_down", "_free", "_limit", "_starts", "_up", "busy")

    def __init__(self, scenario: Scenario) -> None:
        self._capacity = scenario.capacity
        self._down, self._up = scenario.outage
        self._limit = scenario.queue
        self._free = 0.0
        self._starts: deque[float] = deque()
        self._back = self._down == self._up
        self.busy = 0.0
        """Seconds of work done for requests that were answered."""

    def offer(self, now: float, cost: float) -> tuple[float, int]:
        """When and how the request ends that arrives now. Calls come in order of time."""
        if self._down <= now < self._up:
            return now, DOWN
        starts = self._starts
        if now >= self._up and not self._back:
            self._back = True
            self._free = self._up
            starts.clear()
        while starts and starts[0] <= now:
            starts.popleft()
        if len(starts) >= self._limit:
            return now, FULL
        start = now
        if self._free > now:
            start = self._free
            starts.append(start)
        work = cost / self._capacity
        end = start + work
        self._free = end
        if not self._back and end > self._down:
            return self._down, LOST
        self.busy += work
        return end, OK
