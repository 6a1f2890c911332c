"""Which connections a server has, and which of them goes when another needs its place."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator


class Seated(Protocol):
    """A connection, as the roster sees it.

    Attributes:
        since: when it began to wait for what it waits for now, in seconds on the caller's clock.
    """

    since: float

    @property
    def stalled(self) -> bool:
        """It waits for its peer."""


C = TypeVar("C", bound=Seated)


class Roster(Generic[C]):
    """Connections by what they wait for, each kind in the order in which they began to.

    Args:
        keeps: seconds for which one that waits for its client keeps its place.
        waiting: how many may wait for their first request, and how many for the rest of one.
    """

    def __init__(self, keeps: float, waiting: int) -> None:
        self._keeps = keeps
        self._waiting = waiting
        self._headless: OrderedDict[C, None] = OrderedDict()  # no request came on it yet
        self._idle: OrderedDict[C, None] = OrderedDict()
        self._bodies: OrderedDict[C, None] = OrderedDict()
        self._busy: OrderedDict[C, None] = OrderedDict()
        self._kinds = (self._headless, self._idle, self._bodies, self._busy)

    def __len__(self) -> int:
        return sum(map(len, self._kinds))

    def __iter__(self) -> Iterator[C]:
        return iter([connection for kind in self._kinds for connection in kind])

    def enter(self, connection: C) -> None:
        """A new connection."""
        self._headless[connection] = None

    def begin(self, connection: C) -> None:
        """It has a request under way from now on."""
        self.leave(connection)
        self._busy[connection] = None

    def wait(self, connection: C) -> None:
        """The rest of its request is waited for."""
        self.leave(connection)
        self._bodies[connection] = None

    def rest(self, connection: C) -> None:
        """Its answer is out; it waits for the next request."""
        if connection in self._idle:
            self._idle.move_to_end(connection)
            return
        self.leave(connection)
        self._idle[connection] = None

    def leave(self, connection: C) -> None:
        """It is gone."""
        for kind in self._kinds:
            kind.pop(connection, None)

    def dispensable(self, now: float) -> C | None:
        """Who goes for a newcomer: the longest without a request, else the longest stalled in one.

        None when all have work under way, or began to wait only a moment ago.
        """
        # T-HTTP-12: connections that ask for nothing shut nobody out, and requests under way are not lost.
        for kind in (self._headless, self._idle, self._bodies):
            first = self._first(kind, now)
            if first is not None:
                return first
        stalled = (c for c in self._busy if c.stalled and c.since + self._keeps <= now)
        return min(stalled, key=lambda c: c.since, default=None)

    def surplus(self, now: float) -> C | None:
        """Who goes because too many wait for a request, or for the rest of one."""
        # T-HTTP-22: a program writes its request at once. Thousands that do not only fill the memory.
        for kind in (self._headless, self._bodies):
            if len(kind) > self._waiting:
                return self._first(kind, now)
        return None

    def _first(self, kind: OrderedDict[C, None], now: float) -> C | None:
        first = next(iter(kind), None)
        return first if first is not None and first.since + self._keeps <= now else None
