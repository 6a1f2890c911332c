"""An HTTP/1.1 server on bound sockets: which connections there are, their time limits, and their end."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from agent.config import limits
from agent.http.server.connection import Connection
from agent.http.server.exchange import Loss
from agent.http.server.roster import Roster

if TYPE_CHECKING:
    import socket

    from agent.http.budget import Budget
    from agent.http.messages import Bounds
    from agent.http.relief import Relief
    from agent.http.server.exchange import Answer, Application
    from agent.http.server.phase import Times


class Server:
    """See the module. It belongs to one event loop.

    Args:
        application: answers.
        bounds: of each request.
        times: of each connection.
        budget: the account for what the connections hold.
        relief: watches how many there are.
        most: connections at a time.

    Attributes:
        application, bounds, times, budget: as given.
        roster: the connections that have a place.
        buffer: what is read arrives here, and is taken out before anything else is read.
    """

    def __init__(
        self,
        application: Application,
        bounds: Bounds,
        times: Times,
        *,
        budget: Budget,
        relief: Relief,
        most: int,
    ) -> None:
        self.application = application
        self.bounds = bounds
        self.times = times
        self.budget = budget
        self.roster: Roster[Connection] = Roster(times.place, limits.HTTP_WAITING)
        self.buffer = memoryview(bytearray(limits.HTTP_READ))
        self._most = most
        self._relief = relief
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._listeners: list[asyncio.Server] = []
        self._open = True
        self._look: asyncio.TimerHandle | None = None
        self._next = math.inf
        self._alive = 0
        self._tasks: set[asyncio.Task[Answer]] = set()
        self._empty = asyncio.Event()

    async def start(self, *socks: socket.socket) -> None:
        """Accept on bound stream sockets, which are closed in :meth:`stop`."""
        for sock in socks:
            # T-HTTP-18: the number is also how many are accepted in one turn of the loop.
            listener = await self._loop.create_server(
                lambda: Connection(self), sock=sock, backlog=limits.HTTP_ACCEPTS
            )
            sock.listen(limits.REST_BACKLOG)
            self._listeners.append(listener)

    async def stop(self, grace: float) -> None:
        """Accept nothing new, let requests under way finish for ``grace`` seconds, then end all."""
        for listener in self._listeners:
            listener.close()
        await asyncio.sleep(0)  # a connection accepted just now gets its protocol first
        self._open = False
        for connection in tuple(self.roster):
            connection.finish()
        if not await self._ended(grace):
            for connection in tuple(self.roster):
                connection.abort()
            await self._ended(grace)
        if self._look is not None:
            self._look.cancel()

    async def _ended(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while self._alive or self._tasks:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            return False
        return True

    # --- called by connections --------------------------------------------------------------------
    def enter(self, connection: Connection) -> bool:
        """Give a new connection a place: another's, when all are taken; False when it gets none."""
        self._alive += 1
        self._relief.rises(self._alive)
        if not self._open:
            return False
        if len(self.roster) >= self._most:
            # T-REST-19: the other roles and the TEE's devices need descriptors too.
            other = self.roster.dispensable(self.now())
            if other is None:
                self.application.lost(Loss.FULL)
                return False
            self.application.lost(Loss.REPLACED)
            other.abort()
        self.roster.enter(connection)
        self.thin_out()
        return True

    def thin_out(self) -> None:
        """End connections that wait longest for their clients, while too many do."""
        while (other := self.roster.surplus(self.now())) is not None:
            self.application.lost(Loss.REPLACED)
            other.abort()

    def leave(self, connection: Connection) -> None:
        """It has no place any more, and holds nothing."""
        self.roster.leave(connection)
        self.budget.leave(connection)

    def lost(self) -> None:
        """A connection's descriptor is closed."""
        self._alive -= 1
        self._relief.falls(self._alive)
        self._empty.set()

    def run(self, task: asyncio.Task[Answer]) -> None:
        """A request is under way; :meth:`stop` waits for it."""
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def watch(self, due: float) -> None:
        """Look at all connections then, or earlier: one timer serves them all."""
        if due < self._next:
            self._schedule(max(due, self.now() + self.times.pace))

    def _done(self, task: asyncio.Task[Answer]) -> None:
        self._tasks.discard(task)
        self._empty.set()

    def _schedule(self, at: float) -> None:
        if self._look is not None:
            self._look.cancel()
        self._next = at
        self._look = None if math.isinf(at) else self._loop.call_at(at, self._look_at_all)

    def _look_at_all(self) -> None:
        now, self._next = self.now(), math.inf
        for connection in self.roster:
            connection.expire(now)
        self.thin_out()
        soonest = min((connection.due for connection in self.roster), default=math.inf)
        self._schedule(max(soonest, now + self.times.pace))
