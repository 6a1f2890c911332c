"""Waiting for a place at an endpoint, and making room for others: the edge of :mod:`agent.kbs.lanes`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agent.kbs.lanes import Lanes

if TYPE_CHECKING:
    from types import TracebackType

    from agent.kbs.lanes import Name, Ticket
    from agent.kbs.progress import Progress


class Slots:
    """The exchanges under way with one endpoint, ``limits.KBS_CONNECTIONS`` at most."""

    def __init__(self) -> None:
        self._lanes = Lanes()
        self._holds: dict[Ticket, Hold] = {}
        self._timer: asyncio.TimerHandle | None = None

    def hold(self, name: Name | None, progress: Progress) -> Hold:
        """A place for one exchange, as a context.

        Args:
            name: digest of the resource; None for a handshake, which keeps its place to its end.
            progress: of the exchange.
        """
        return Hold(self, name, progress)

    def enter(self, hold: Hold) -> Ticket:
        """It waits from now on."""
        ticket = self._lanes.enter(hold.name)
        self._holds[ticket] = hold
        self._settle()
        return ticket

    def leave(self, ticket: Ticket, *, ended: bool) -> None:
        """Its place is free."""
        del self._holds[ticket]
        self._lanes.leave(ticket, asyncio.get_running_loop().time(), ended=ended)
        self._settle()

    def _settle(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._lanes.crowded:
            for ticket in self._lanes.fetching:
                if not self._holds[ticket].progress.connected:
                    self._lanes.restart(ticket, now)
        began, leaving = self._lanes.settle(now)
        for ticket in began:
            self._holds[ticket].begin()
        for ticket in leaving:
            self._holds[ticket].make_room(now)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._lanes.next_look()
        if at is not None:
            self._timer = loop.call_at(at, self._settle)


class Hold:
    """A place for the body of ``async with``; a body that was told to make room ends without an error."""

    __slots__ = ("_granted", "_slots", "_ticket", "_turn", "name", "progress")

    def __init__(self, slots: Slots, name: Name | None, progress: Progress) -> None:
        self._slots = slots
        self.name = name
        self.progress = progress
        self._granted = asyncio.get_running_loop().create_future()
        self._turn = asyncio.timeout(None)
        self._ticket: Ticket | None = None

    def begin(self) -> None:
        """Its turn has come."""
        if not self._granted.done():
            self._granted.set_result(None)

    def make_room(self, now: float) -> None:
        """Others wait, and this one takes long."""
        self._turn.reschedule(now)

    async def __aenter__(self) -> None:
        self._ticket = self._slots.enter(self)
        try:
            await self._granted
        except asyncio.CancelledError:
            self._slots.leave(self._ticket, ended=False)
            raise
        await self._turn.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            await self._turn.__aexit__(kind, error, trace)
        except TimeoutError:  # of the turn; one of the body is ``error`` and passes by
            return True
        finally:
            if self._ticket is not None:
                self._slots.leave(self._ticket, ended=kind is not asyncio.CancelledError)
        return False
