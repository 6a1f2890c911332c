"""Logins at services: made once for all callers, again before they end or when their credentials change."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec

from agent.clock import Deadline
from agent.config import limits
from agent.errors import AgentError
from agent.flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.clock import Clock
    from agent.secret import Secret

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
    """Holds one lease, which belongs to the bytes of the credentials it was made with.

    Its life is counted on the boot clock, which nobody outside can set back.
    """

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
        self._basis = b""
        self._flight: SingleFlight[bytes, T] = SingleFlight()

    async def get(
        self,
        read: Callable[[Deadline], Awaitable[Secret]],
        login: Callable[[Secret, Deadline], Awaitable[Lease[T]]],
        deadline: Deadline,
        *,
        stale: T | None = None,
    ) -> T:
        """The held value, or a new one when the credentials are not those it was made with.

        Args:
            read: gives the credentials as they are now; that copy is wiped here.
            login: gets a new lease with the credentials it is given, within its deadline. They are wiped
                afterwards.
            deadline: when this caller stops waiting.
            stale: the service refused this one; it is not given out again.

        Returns:
            The shared value; not to be wiped by the caller.

        Raises:
            AgentError: DEADLINE_EXCEEDED, or what reading the credentials or logging in raised.
        """
        credentials = await self._credentials(read, deadline)
        try:
            basis = hashlib.sha256(credentials.reveal()).digest()
            if basis != self._basis or (stale is not None and self._held is stale):
                self._held = None  # not wiped: another caller may be about to send it
                self._basis = basis
            if self._held is not None and self._clock.boot() < self._until:
                return self._held
            return await self._flight.join(
                basis,
                lambda: self._renew(basis, credentials.copy(), login),
                deadline,
                "waiting for a token of a key management service",
            )
        finally:
            credentials.wipe()

    def close(self) -> None:
        """Forget and overwrite what is held."""
        held, self._held = self._held, None
        if held is not None:
            self._wipe(held)

    async def _credentials(self, read: Callable[[Deadline], Awaitable[Secret]], deadline: Deadline) -> Secret:
        # T-KMS-70: a login must not outlive the credentials it was made with, so they are read for each use.
        try:
            return await read(deadline)
        except AgentError as error:
            if not error.code.meaning.retry:
                self._held = None  # not wiped, as above
            raise

    async def _renew(
        self, basis: bytes, credentials: Secret, login: Callable[[Secret, Deadline], Awaitable[Lease[T]]]
    ) -> T:
        try:
            # It works for all waiting callers, so it has a deadline of its own.
            lease = await login(credentials, Deadline.after(self._clock, limits.ATTEST_DEADLINE))
        finally:
            credentials.wipe()
        # T-KMS-70: they may have been replaced in the meantime.
        if basis == self._basis:
            self._held = lease.value
            self._until = self._clock.boot() + min(lease.seconds, LONGEST) - MARGIN
        return lease.value
