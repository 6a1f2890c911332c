"""One account for all bytes that callers make this process hold: unfinished requests and unread answers.

Each connection is a holder. When the account is full, holders that made no progress for the longest time lose
their connection first: who sends or reads keeps moving to the safe end, and who stopped pays for it. A part
is reserved for sockets that only kata-agent and root can reach, so that a workload cannot fill all of it.
"""

from __future__ import annotations

from typing import Protocol


class Holder(Protocol):
    """A connection, as the account sees it.

    Attributes:
        reserved: it may also use the reserved part.
    """

    reserved: bool

    @property
    def stalled(self) -> bool:
        """It waits for its peer, so it may be given up; a request that is being worked on may not."""

    def evict(self) -> None:
        """Give up what is held and the connection with it; afterwards the holder has left the account."""


class Budget:
    """The account. Not thread-safe: it belongs to one event loop.

    Args:
        limit: bytes for all holders together.
        reserve: bytes of it that only holders with ``reserved`` may use.

    Attributes:
        used: bytes held now.
        peak: the most there were since somebody set it.
        evicted: holders that had to go so far.
    """

    def __init__(self, limit: int, reserve: int) -> None:
        self._limit = limit
        self._reserve = reserve
        self._held: dict[Holder, int] = {}  # in the order of their last progress, the oldest first
        self._common = 0
        self.used = self.peak = 0
        self.evicted = 0

    def set_aside(self, size: int) -> None:
        """Take bytes off for good, for what holds them uncounted; a negative size gives them back."""
        self._limit -= size

    def hold(self, holder: Holder, size: int) -> bool:
        """A holder has made progress and holds ``size`` bytes from now on, in place of what it held.

        Others are evicted for it as far as that helps.

        Returns:
            False when there is no room: it holds what it held before, and has to be refused.
        """
        before = self._held.pop(holder, 0)
        self._set(holder, before, size)
        if size <= before or self._make_room(holder):
            return True
        self._set(holder, size, before)
        return False

    def leave(self, holder: Holder) -> None:
        """A holder is gone, with all it held."""
        self._set(holder, self._held.pop(holder, 0), 0)

    def _set(self, holder: Holder, before: int, size: int) -> None:
        self.used += size - before
        self.peak = max(self.peak, self.used)
        if not holder.reserved:
            self._common += size - before
        self._held.pop(holder, None)
        if size:
            self._held[holder] = size

    def _full(self, newcomer: Holder) -> bool:
        if newcomer.reserved:
            return self.used > self._limit
        return self._common > self._limit - self._reserve or self.used > self._limit

    def _make_room(self, newcomer: Holder) -> bool:
        if not self._full(newcomer):
            return True
        for holder in tuple(self._held):
            # T-HTTP-11: a workload cannot push out kata-agent's connections; they can push out workloads.
            if holder is newcomer or not holder.stalled or (holder.reserved and not newcomer.reserved):
                continue
            self.evicted += 1
            holder.evict()
            self.leave(holder)
            if not self._full(newcomer):
                return True
        return False
