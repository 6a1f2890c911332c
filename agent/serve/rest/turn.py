"""Large answers of one turn of the loop: each name makes a few bytes of them, then others have their turn."""

from __future__ import annotations

import asyncio
from collections import Counter

from agent.config import limits
from agent.errors import ErrorCode
from agent.serve.rest.answers import RestError


class Turn:
    """Counts, and makes callers wait. It belongs to one event loop."""

    def __init__(self) -> None:
        self._made: Counter[str] = Counter()
        self._waiting = 0

    def spent(self, name: str) -> bool:
        """Whether a resource has to wait for the next turn."""
        return self._made[name] >= limits.REST_TURN if self._made else False

    def made(self, name: str, size: int) -> None:
        """An answer of so many bytes was made; small ones are not counted."""
        if size <= limits.HTTP_PIECE:
            return
        if not self._made:
            asyncio.get_running_loop().call_soon(self._made.clear)
        self._made[name] += size

    async def come(self, name: str) -> None:
        """Wait for a turn that is not spent.

        Raises:
            RestError: TOO_MANY_REQUESTS, many wait already: each is work in every turn, and memory.
        """
        # T-REST-24: making many large answers in one go keeps the loop from everybody else.
        if self.spent(name) and self._waiting >= limits.REST_TURN_WAITING:
            raise RestError(ErrorCode.TOO_MANY_REQUESTS, "too many wait for a large resource")
        self._waiting += 1
        try:
            while self.spent(name):  # noqa: ASYNC110  # the next turn is what is waited for
                await asyncio.sleep(0)
        finally:
            self._waiting -= 1
