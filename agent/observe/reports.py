"""What the event loop reports by itself."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from agent.errors import ErrorCode

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_log = logging.getLogger("coco.daemon")

PAUSE: Final = 60.0
"""Seconds between two lines about connections that cannot be accepted."""

_ACCEPT: Final = "socket.accept() out of system resource"


class LoopReports:
    """An exception handler for the event loop (``loop.set_exception_handler``).

    Without free descriptors asyncio reports every connection that waits, hundreds a second: other lines would
    not get through to a slow console. One line a minute says it all; everything else is left to asyncio.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = float("-inf")
        self._count = 0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """Report, or count."""
        # T-LOG-23: whoever opens connections must not be able to crowd out the log.
        if context.get("message") != _ACCEPT:
            loop.default_exception_handler(context)
            return
        self._count += 1
        now = self._clock()
        if now < self._next:
            return
        code = ErrorCode.GUEST_EXHAUSTED
        _log.error(
            "no descriptors left, new connections wait",
            extra={"code": code.name, "hint": code.meaning.hint, "count": self._count},
        )
        self._next, self._count = now + PAUSE, 0
