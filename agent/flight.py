"""Single flight: however many callers ask for the same thing at once, the work is done once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from agent.clock import Deadline

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """Joins callers that ask for the same key while the work is under way; remembers nothing after.

    A caller that is cancelled, or whose deadline passes, leaves the flight to the others. The last one
    to leave cancels the work.
    """

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[V]] = {}
        self._waiting: dict[K, int] = {}

    def under_way(self, key: K) -> bool:
        """Whether a caller for this key would join a flight."""
        return key in self._tasks

    async def join(self, key: K, work: Callable[[], Awaitable[V]], deadline: Deadline, phase: str) -> V:
        """The result of ``work``, started here or by an earlier caller.

        Args:
            key: what is asked for.
            work: started only if no flight for ``key`` is under way. It bounds its own time.
            deadline: this caller's own.
            phase: named in the error when this caller's deadline passes.

        Raises:
            AgentError: DEADLINE_EXCEEDED, or what the work raised.
        """
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.ensure_future(self._run(work))
            self._waiting[key] = 0
            task.add_done_callback(lambda done: self._landed(key, done))
        self._waiting[key] += 1
        try:
            # A backstop: work that keeps a deadline of its own, mostly this very one, says what it waits for.
            async with deadline.backstop(phase):
                return await asyncio.shield(task)
        finally:
            self._leave(key, task)

    @staticmethod
    async def _run(work: Callable[[], Awaitable[V]]) -> V:
        return await work()

    def _landed(self, key: K, task: asyncio.Task[V]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
            self._waiting.pop(key, None)
        if not task.cancelled():
            task.exception()  # marks it retrieved: every caller may have left

    def _leave(self, key: K, task: asyncio.Task[V]) -> None:
        if self._tasks.get(key) is not task:
            return
        self._waiting[key] -= 1
        if self._waiting[key] == 0 and not task.done():
            del self._tasks[key], self._waiting[key]  # a newcomer starts afresh
            task.cancel()
