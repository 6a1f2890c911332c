"""What one connection of a server remembers, and what follows from it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from agent.config import limits
from agent.http.parser import RequestReader
from agent.http.server.body import Body
from agent.http.server.phase import Phase, due

if TYPE_CHECKING:
    import asyncio
    import socket

    from agent.http.server.exchange import Answer, Side
    from agent.http.server.outbox import Outbox
    from agent.http.server.server import Server


class State:
    """See the module.

    Attributes:
        due: when its time limit has to be looked at, in seconds on the loop's clock.
        since: see :class:`agent.http.server.roster.Seated`.
        reserved: see :class:`agent.http.budget.Holder`.
    """

    __slots__ = (
        "_at",
        "_began",
        "_body",
        "_charged",
        "_closing",
        "_continued",
        "_ended",
        "_inbox",
        "_outbox",
        "_paused",
        "_phase",
        "_reader",
        "_server",
        "_side",
        "_socket",
        "_taken",
        "_task",
        "_transport",
        "_turn",
        "due",
        "reserved",
        "since",
    )

    _transport: asyncio.Transport
    _socket: socket.socket
    _outbox: Outbox
    _side: Side

    def __init__(self, server: Server) -> None:
        self.reserved = False
        self._server = server
        self._reader = RequestReader(server.bounds)
        self._phase = Phase.IDLE
        self._inbox = b""
        self._at = 0
        self._charged = 0
        self._taken = 0
        self._body = Body()
        self._task: asyncio.Task[Answer] | None = None
        self._turn: asyncio.Handle | None = None
        self._began = 0.0
        self._paused = self._ended = self._closing = self._continued = False
        self.since = 0.0
        self.due = math.inf

    @property
    def stalled(self) -> bool:
        """Whether it waits for its peer."""
        return self._phase is not Phase.WORK or self._body.wanted

    def _until(self) -> float:
        """When its time limit has to be looked at."""
        if self._phase is not Phase.WORK:
            return due(self._server.times, self._phase, self._began, self._outbox.sent)
        if self._body.wanted:
            return due(self._server.times, self._phase, self._began, self._reader.received)
        # Nothing says when a client that has ended its side goes away.
        return self._server.now() + self._server.times.linger if self._ended else math.inf

    def _size(self) -> int:
        """Bytes held, as far as they are counted."""
        held = self._reader.held + self._taken + len(self._inbox) - self._at + self._outbox.held
        return max(0, held - limits.HTTP_UNCOUNTED)

    def _release(self) -> None:
        """Keep nothing of what came, nor of what was to go."""
        self._inbox, self._at, self._taken = b"", 0, 0
        self._reader.clear()
        self._outbox.drop()
