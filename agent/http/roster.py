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
        keeps: seconds for which one that waits for a request keeps its place.
    """

    def __init__(self, keeps: float) -> None:
        self._keeps = keeps
        self._headless: OrderedDict[C, None] = OrderedDict()  # no request came on it yet
        self._idle: OrderedDict[C, None] = OrderedDict()
        self._busy: OrderedDict[C, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._headless) + len(self._idle) + len(self._busy)

    def __iter__(self) -> Iterator[C]:
        yield from (*self._headless, *self._idle, *self._busy)

    @property
    def busy(self) -> int:
        """Connections with a request under way, or an answer that is not out."""
        return len(self._busy)

    def enter(self, connection: C) -> None:
        """A new connection."""
        self._headless[connection] = None

    def begin(self, connection: C) -> None:
        """It has a request under way from now on."""
        self.leave(connection)
        self._busy[connection] = None

    def rest(self, connection: C) -> None:
        """Its answer is out; it waits for the next request."""
        if connection in self._idle:
            self._idle.move_to_end(connection)
            return
        self.leave(connection)
        self._idle[connection] = None

    def leave(self, connection: C) -> None:
        """It is gone."""
        for kind in (self._headless, self._idle, self._busy):
            kind.pop(connection, None)

    def dispensable(self, now: float) -> C | None:
        """Who goes for a newcomer: the longest without a request, else the longest stalled in one.

        None when all have work under way, or began to wait only a moment ago.
        """
        # T-HTTP-12: connections that ask for nothing shut nobody out, and requests under way are not lost.
        for kind in (self._headless, self._idle):
            first = next(iter(kind), None)
            if first is not None and first.since + self._keeps <= now:
                return first
        stalled = (c for c in self._busy if c.stalled and c.since + self._keeps <= now)
        return min(stalled, key=lambda c: c.since, default=None)
