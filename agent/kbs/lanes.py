"""Who may have an exchange with the broker next: handshakes, resources not known to be slow, slow ones.

Resources that take long must not keep the others waiting, nor a handshake. Pure: the time is passed
in; :mod:`agent.kbs.slots` waits and cancels.
"""

from __future__ import annotations

import math
from array import array
from collections import OrderedDict

import msgspec

from agent.config import limits

Name = bytes
"""SHA-256 of a resource's name: names are not kept."""


class Ticket(msgspec.Struct, eq=False):
    """One exchange, waiting or under way.

    Attributes:
        name: of the resource; None for a handshake.
        slow: it takes its place from those for slow ones.
        began: when it got its place, in seconds; ``math.inf`` while it waits.
        leaving: it was told to make room.
    """

    name: Name | None
    slow: bool = False
    began: float = math.inf
    leaving: bool = False


class _Queue:
    """Those that wait. The oldest and the newest leave in turn: a newcomer gets in soon, and none starves."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Ticket, None] = OrderedDict()
        self._newest = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, ticket: Ticket) -> None:
        self._waiting[ticket] = None

    def take(self) -> Ticket:
        ticket, _ = self._waiting.popitem(last=self._newest)
        self._newest = not self._newest
        return ticket

    def drop(self, ticket: Ticket) -> None:
        self._waiting.pop(ticket, None)


class _Names:
    """Names in a table of fixed size, each at the place that its digest says; a later one takes it over.

    An object for each name would stand, after a rush of them, in memory that could not be given back.
    """

    def __init__(self) -> None:
        # T-KBS-105: made-up names must not fill the memory.
        self._marks = array("Q", bytes(8 * limits.KBS_SLOW_NAMES))

    def __contains__(self, name: Name) -> bool:
        place, mark = self._of(name)
        return self._marks[place] == mark

    def add(self, name: Name) -> None:
        place, mark = self._of(name)
        self._marks[place] = mark

    def discard(self, name: Name) -> None:
        place, mark = self._of(name)
        if self._marks[place] == mark:
            self._marks[place] = 0

    def _of(self, name: Name) -> tuple[int, int]:
        mark = int.from_bytes(name[:8], "big") or 1  # 0 is a place that is free
        return mark % len(self._marks), mark


class Lanes:
    """The places of one endpoint, and the names that were slow there lately."""

    def __init__(self) -> None:
        self._handshakes, self._fresh, self._slow = _Queue(), _Queue(), _Queue()
        self._shaking: set[Ticket] = set()
        self._fetching: OrderedDict[Ticket, None] = OrderedDict()
        self._known = _Names()
        self._slow_next = False

    @property
    def crowded(self) -> bool:
        """Whether resources wait that are not known to be slow."""
        return len(self._fresh) > 0

    @property
    def fetching(self) -> tuple[Ticket, ...]:
        """Resources under way, in the order in which they began."""
        return tuple(self._fetching)

    def enter(self, name: Name | None) -> Ticket:
        """One more waits: for the resource ``name``, or for a handshake."""
        ticket = Ticket(name, slow=name is not None and name in self._known)
        queue = self._handshakes if name is None else self._slow if ticket.slow else self._fresh
        queue.put(ticket)
        return ticket

    def restart(self, ticket: Ticket, now: float) -> None:
        """Count its time from now on: so far it was connecting, which says nothing about its resource."""
        ticket.began = now

    def leave(self, ticket: Ticket, now: float, *, ended: bool) -> None:
        """One waits no more, or is over.

        Args:
            ticket: of it.
            now: in seconds, on the clock of the other times.
            ended: by itself; otherwise it was cancelled.
        """
        for queue in (self._handshakes, self._fresh, self._slow):
            queue.drop(ticket)
        self._shaking.discard(ticket)
        self._fetching.pop(ticket, None)
        if ticket.name is None:
            return
        if ticket.leaving or now - ticket.began >= limits.KBS_SLOW_AFTER:
            self._known.add(ticket.name)
        elif ended:
            self._known.discard(ticket.name)

    def settle(self, now: float) -> tuple[list[Ticket], list[Ticket]]:
        """Give away what is free.

        Returns:
            Those that begin now, and those that are to make room now; their place is free when they
            :meth:`leave`, and they may enter again.
        """
        if not (self._handshakes or self._fresh or self._slow):
            return [], []
        overdue = self._overdue(now)
        if not self._slow:
            # They may stay, as slow ones.
            for one in overdue[: max(0, limits.KBS_SLOW - self._slow_ones())]:
                one.slow = True
        began = []
        while (ticket := self._next()) is not None:
            ticket.began = now
            (self._shaking if ticket.name is None else self._fetching).update({ticket: None})
            began.append(ticket)
        # T-KBS-102: names that are slow for the first time hold the last places for a moment only.
        wanted = len(self._fresh) - sum(one.leaving for one in self._fetching)
        leaving = [one for one in overdue if not one.slow][: max(0, wanted)]
        for one in leaving:
            one.leaving = True
        return began, leaving

    def next_look(self) -> float | None:
        """When to :meth:`settle` again, if nobody enters or leaves before; None: not needed."""
        if not self.crowded:
            return None
        began = [one.began for one in self._fetching if not (one.slow or one.leaving)]
        return min(began) + limits.KBS_SLOW_AFTER if began else None

    def _next(self) -> Ticket | None:
        if len(self._shaking) + len(self._fetching) >= limits.KBS_CONNECTIONS:
            return None
        if self._handshakes:
            return self._handshakes.take()
        # T-KBS-103: without a handshake there is no resource at all, so it never waits behind them.
        if len(self._fetching) >= limits.KBS_CONNECTIONS - limits.KBS_HANDSHAKES:
            return None
        # T-KBS-101: slow ones have a share, and no more.
        slow = bool(self._slow) and self._slow_ones() < limits.KBS_SLOW
        if slow and self._fresh:
            self._slow_next = not self._slow_next
            return (self._slow if self._slow_next else self._fresh).take()
        return self._slow.take() if slow else self._fresh.take() if self._fresh else None

    def _overdue(self, now: float) -> list[Ticket]:
        return [
            one
            for one in self._fetching
            if not (one.slow or one.leaving) and now - one.began >= limits.KBS_SLOW_AFTER
        ]

    def _slow_ones(self) -> int:
        return sum(one.slow for one in self._fetching)
