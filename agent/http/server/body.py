"""The body that an application waits for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agent.http.server.exchange import BodyError, Refusal

if TYPE_CHECKING:
    from agent.http.parser import RequestReader


class Body:
    """At most one wait at a time."""

    __slots__ = ("_limit", "_waiting")

    def __init__(self) -> None:
        self._limit = 0
        self._waiting: asyncio.Future[None] | None = None

    @property
    def wanted(self) -> bool:
        """Somebody waits for it."""
        return self._waiting is not None and not self._waiting.done()

    def want(self, limit: int) -> asyncio.Future[None]:
        """Wait until all of it has come: at most ``limit`` bytes, or the wait ends with BodyError."""
        self._limit = limit
        self._waiting = asyncio.get_running_loop().create_future()
        return self._waiting

    def came(self, reader: RequestReader) -> None:
        """More of it is there."""
        if reader.received > self._limit:
            # T-REST-21: bounded by what is announced and by what arrives.
            self.fail(Refusal.BODY_TOO_LARGE)
        elif reader.complete and self._waiting is not None and self.wanted:
            self._waiting.set_result(None)

    def fail(self, refusal: Refusal) -> None:
        """It will not come."""
        if self._waiting is not None and self.wanted:
            self._waiting.set_exception(BodyError(refusal))

    def forget(self) -> None:
        """Nobody waits any more."""
        self._waiting = None
