"""Tokens and session credentials of services: fetched once for all callers, and again before they expire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec

from agent.clock import Deadline
from agent.config import limits
from agent.flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.clock import Clock

T = TypeVar("T")

MARGIN: Final = 60.0
"""Seconds before its end at which a lease is renewed: the way there, and a clock that differs a little."""

LONGEST: Final = 3600.0
"""Seconds after which a lease is renewed whatever its end: credentials behind it may have been taken back."""


class Lease(msgspec.Struct, Generic[T], frozen=True):
    """Something that ends.

    Attributes:
        value: such as a token.
        seconds: life from now on, as the service says.
    """

    value: T
    seconds: float


class Leases(Generic[T]):
    """Holds one lease. Its life is counted on the boot clock, which nobody outside can set back."""

    def __init__(self, clock: Clock, wipe: Callable[[T], None]) -> None:
        """Start with none.

        Args:
            clock: for the lease's life.
            wipe: overwrites a value that is not used any more.
        """
        self._clock = clock
        self._wipe = wipe
        self._held: T | None = None
        self._until = 0.0
        self._flight: SingleFlight[str, T] = SingleFlight()

    async def get(
        self, fetch: Callable[[Deadline], Awaitable[Lease[T]]], deadline: Deadline, *, stale: T | None = None
    ) -> T:
        """The held value, or a new one.

        Args:
            fetch: gets a new lease, within the deadline it is given.
            deadline: when this caller stops waiting.
            stale: the service refused this one; it is not given out again.

        Returns:
            The shared value; not to be wiped by the caller.

        Raises:
            AgentError: DEADLINE_EXCEEDED, or what ``fetch`` raised.
        """
        if stale is not None and self._held is stale:
            self._held = None  # not wiped: another caller may be about to send it
        if self._held is not None and self._clock.boot() < self._until:
            return self._held
        return await self._flight.join(
            "lease", lambda: self._renew(fetch), deadline, "waiting for a token of a key management service"
        )

    def close(self) -> None:
        """Forget and overwrite what is held."""
        held, self._held = self._held, None
        if held is not None:
            self._wipe(held)

    async def _renew(self, fetch: Callable[[Deadline], Awaitable[Lease[T]]]) -> T:
        # It works for all waiting callers, so it has a deadline of its own; as long as an attestation takes,
        # for credentials that come from the key broker.
        lease = await fetch(Deadline.after(self._clock, limits.ATTEST_DEADLINE))
        self._held = lease.value
        self._until = self._clock.boot() + min(lease.seconds, LONGEST) - MARGIN
        return lease.value
