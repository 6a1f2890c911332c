"""Waiting for a device that says it is busy."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final

from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.clock import Deadline

_FIRST: Final = 0.05
"""Seconds of the first pause; a quote in flight takes a second or so, a throttled processor two."""

_LONGEST: Final = 2.0


class Backoff:
    """Pauses that grow, with jitter, and that end before the deadline.

    Args:
        deadline: when the caller stops waiting.
        pause: sleeps for a number of seconds; tests advance a clock.
    """

    def __init__(self, deadline: Deadline, pause: Callable[[float], None] = time.sleep) -> None:
        self._deadline = deadline
        self._pause = pause
        self._next = _FIRST

    def check(self, doing: str) -> None:
        """Nothing, while there is time left.

        Raises:
            AgentError: EVIDENCE_TIMEOUT.
        """
        if self._deadline.remaining() <= 0:
            raise AgentError(ErrorCode.EVIDENCE_TIMEOUT, f"time ran out while {doing}")

    def wait(self, busy: str) -> None:
        """Sleep before the next try.

        Args:
            busy: who is busy, for the error.

        Raises:
            AgentError: DEVICE_BUSY, the next try would come after the deadline.
        """
        seconds = self._next * random.uniform(0.5, 1.5)  # noqa: S311 - spreads guests, hides nothing
        # T-TEE-42: a device that is busy for ever costs the caller its deadline and no more.
        if seconds >= self._deadline.remaining():
            raise AgentError(ErrorCode.DEVICE_BUSY, f"{busy}, and no time is left for another try")
        self._pause(seconds)
        self._next = min(self._next * 2, _LONGEST)
