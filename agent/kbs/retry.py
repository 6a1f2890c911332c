"""When to try again: exponential pauses with full jitter, decided without a clock or a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.config import limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.errors import AgentError


class Backoff(msgspec.Struct, frozen=True):
    """Pauses between tries.

    Attributes:
        first: upper bound of the first pause, in seconds.
        longest: upper bound of any pause, in seconds.
    """

    first: float = limits.RETRY_FIRST_PAUSE
    longest: float = limits.RETRY_LONGEST_PAUSE

    def pause(self, failed: int, error: AgentError, chance: Callable[[], float]) -> float | None:
        """Seconds until the next try, or None when trying again cannot help.

        Full jitter: anything from 0 to the bound, so that guests that lost their broker together do not come
        back together. A ``Retry-After`` of the broker is a lower bound.

        Args:
            failed: tries that failed so far, from 1.
            error: how the last one ended.
            chance: 0 to 1, uniformly; injected.
        """
        if not error.code.meaning.retry:
            return None
        bound = min(self.longest, self.first * 2.0 ** min(failed - 1, 32))
        asked = min(error.retry_after or 0.0, limits.RETRY_AFTER_MAX)
        return asked + chance() * bound


class Trouble:
    """How often a broker failed lately, over all requests to it.

    A guest that boots has many requests to make. If each began with the shortest pause, a broker that comes
    back would meet them all at once (docs/scale.md). So failures count on from request to request, at most
    ``limits.RETRY_REMEMBERED``, and each exchange that went well takes one back.
    """

    def __init__(self) -> None:
        self._failures = 0

    def failed(self, here: int) -> int:
        """One more try failed, the ``here``-th of its request; the number to make the pause from."""
        self._failures = min(limits.RETRY_REMEMBERED, self._failures + 1)
        return max(here, self._failures)

    def eased(self) -> None:
        """An exchange went well."""
        self._failures = max(0, self._failures - 1)
