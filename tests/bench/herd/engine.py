"""The event loop of the simulation: a heap of times, no sockets, no real clock."""

from __future__ import annotations

import random
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final

from tests.bench.herd.guests import Flow, Guest, Policy, World
from tests.bench.herd.model import FULL, LATE, OK, PAUSE, Broker, Scenario

CELLS: Final = 10
"""Cells per second of the counts over time."""

LONG_WAIT: Final = 0.5
"""Seconds in the broker's queue from which on it counts as overloaded."""


@dataclass(slots=True)
class Run:
    """What happened in one storm. Times in seconds from its beginning.

    Attributes:
        booted: when each guest booted.
        served: when each guest had all its resources.
        fetched: resources each guest got.
        attested: tokens each guest got.
        arrived: requests that arrived at the broker, per cell.
        ended: requests by how they ended for the guest: OK, FULL, DOWN, LOST, LATE.
        overloaded_until: when a request was last refused for a full queue, or had to wait long.
    """

    booted: list[float]
    served: list[float]
    fetched: list[int]
    attested: list[int]
    arrived: list[int]
    ended: list[int]
    overloaded_until: float = 0.0


class Engine:
    """One storm."""

    def __init__(self, scenario: Scenario, policy: Policy, seed: int, broker: Broker | None = None) -> None:
        self._trips = policy.trips
        self._costs = scenario.costs
        self._broker = broker or Broker(scenario)
        # Two sources, so that all policies see the same arrivals.
        arrivals = random.Random(f"arrivals {seed}")  # noqa: S311
        guests = scenario.guests
        world = self._world = World(guests, random.Random(f"chance {seed}").random, self._spawn)  # noqa: S311
        booted = [arrivals.uniform(0.0, scenario.boot) for _ in range(guests)]
        self._flows: list[Flow] = [
            Guest(world, index, scenario, policy).workload() for index in range(guests)
        ]
        self._heap: list[tuple[float, int, int | None]] = [(at, i, None) for i, at in enumerate(booted)]
        heapify(self._heap)
        self._run = Run(booted, [0.0] * guests, world.fetched, world.attested, [], [0] * 5)

    def run(self) -> Run:
        """Until every guest has everything."""
        world, heap, flows, run = self._world, self._heap, self._flows, self._run
        left = guests = len(run.booted)
        while left:
            now, index, result = heap[0]
            world.now = now
            try:
                request, until = flows[index].send(result)  # type: ignore[arg-type]  # None starts it
            except StopIteration:
                heappop(heap)
                if index < guests:
                    run.served[index] = now
                    left -= 1
                continue
            if request == PAUSE:
                heapreplace(heap, (until, index, OK))
            else:
                at, ended = self._send(request, now, until)
                heapreplace(heap, (at, index, ended))
        return run

    def _send(self, request: int, now: float, until: float) -> tuple[float, int]:
        """When and how a request ends for the guest."""
        run = self._run
        cell = int(now * CELLS)
        arrived = run.arrived
        if cell >= len(arrived):
            arrived.extend([0] * (cell + 1 - len(arrived)))
        arrived[cell] += 1
        end, ended = self._broker.offer(now, self._costs[request])
        if ended == FULL or (ended == OK and end - now > LONG_WAIT):
            run.overloaded_until = now
        at = end + self._trips[request]
        if at > until:
            at, ended = until, LATE
        run.ended[ended] += 1
        return at, ended

    def _spawn(self, flow: Flow) -> None:
        # Never before the entry under way: same time, higher index.
        heappush(self._heap, (self._world.now, len(self._flows), None))
        self._flows.append(flow)
