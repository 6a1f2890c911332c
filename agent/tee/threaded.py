"""Devices that block: asked in threads, one question at a time each, while everybody else goes on."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
V = TypeVar("V")


class OneAtATime:
    """Runs one device's blocking calls off the event loop.

    Not the loop's own threads: those are few and shared with name look-ups, and the daemon would wait for
    them when it stops. A driver or vendor library that never comes back keeps its one thread, and callers
    wait for it until their deadline; it does not collect a thread per try.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._last: asyncio.Future[None] | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """The result of ``work``, which is called in a thread when the one before it has ended.

        A caller that is cancelled leaves at once; its work ends when the device says so.
        """
        async with self._turn:
            if self._last is not None:
                await asyncio.shield(self._last)
            job = _Job(work, asyncio.get_running_loop())
            self._last = job.ended
            # Daemonic: a device that hangs must not hold up the end of the process.
            threading.Thread(target=job.run, name="evidence", daemon=True).start()
        return await asyncio.shield(job.result)

    async def idle(self) -> None:
        """Wait until nothing that was asked for is still going on, also what nobody waits for any more."""
        while self._last is not None and not self._last.done():
            await asyncio.shield(self._last)


class _Job(Generic[T]):
    def __init__(self, work: Callable[[], T], loop: asyncio.AbstractEventLoop) -> None:
        self._work = work
        self._loop = loop
        self.result: asyncio.Future[T] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.result.add_done_callback(_seen)

    def run(self) -> None:
        try:
            value = self._work()
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            self._tell(self.result.set_exception, error)
        else:
            self._tell(self.result.set_result, value)

    def _tell(self, outcome: Callable[[V], None], value: V) -> None:
        with suppress(RuntimeError):  # the loop is closed: the daemon stopped while the device was asked
            self._loop.call_soon_threadsafe(self.ended.set_result, None)
            self._loop.call_soon_threadsafe(outcome, value)


def _seen(result: asyncio.Future[T]) -> None:
    if not result.cancelled():
        result.exception()  # marks it retrieved: its caller may have left
