"""Addresses of names."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from agent.config import limits
from agent.http.client.exchange import UNWATCHED, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.http.client.exchange import Steps


class Address(msgspec.Struct, frozen=True):
    """Where to connect to.

    Attributes:
        family: ``socket.AF_INET`` or ``socket.AF_INET6``.
        sockaddr: as the socket module has it: the numeric host, the port and what belongs to the family.
    """

    family: int
    sockaddr: tuple[Any, ...]


class Lookup(Protocol):
    """Looks names up."""

    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        """Addresses of a name, the best first.

        Raises:
            OSError: there are none.
        """


class SystemLookup:
    """The system's resolver, in a thread."""

    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        """See :meth:`Lookup.resolve`."""
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
        return [Address(int(family), sockaddr) for family, _, _, _, sockaddr in found]


def literal(host: str, port: int) -> Address | None:
    """The address that ``host`` already is, or None when it is a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.version == 4:
        return Address(int(socket.AF_INET), (host, port))
    return Address(int(socket.AF_INET6), (host, port, 0, 0))


class Resolver:
    """One look-up per name, however many connections wait for it, and nothing kept afterwards.

    A look-up sits in a thread that nothing can end. So one that nobody waits for any more goes on, and the
    next to ask joins it: a dead name server holds one thread and not the whole pool.

    Args:
        inner: does the work; the system's resolver when there is none.
    """

    def __init__(self, inner: Lookup | None = None) -> None:
        self._inner = inner or SystemLookup()
        self._under_way: dict[tuple[str, int], asyncio.Task[Sequence[Address]]] = {}

    async def addresses(self, host: str, port: int, steps: Steps = UNWATCHED) -> Sequence[Address]:
        """At most ``limits.HTTP_ADDRESSES`` of a name; of an address itself, without asking for it.

        Raises:
            OSError: there are none.
        """
        known = literal(host, port)
        if known is not None:
            return (known,)
        steps.reached(Step.NAME)
        task = self._under_way.get((host, port))
        if task is None:
            task = asyncio.ensure_future(self._inner.resolve(host, port))
            self._under_way[host, port] = task
            task.add_done_callback(lambda done: self._done((host, port), done))
        # T-HTTP-53: a name may have thousands, and each that is tried holds a socket.
        found = tuple(dict.fromkeys(await asyncio.shield(task)))[: limits.HTTP_ADDRESSES]
        if not found:
            raise OSError(None, "the name has no address")
        return found

    def close(self) -> None:
        """Stop waiting for look-ups."""
        for task in tuple(self._under_way.values()):
            task.cancel()

    def _done(self, key: tuple[str, int], task: asyncio.Task[Sequence[Address]]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled():
            task.exception()  # marks it retrieved: all may have left
