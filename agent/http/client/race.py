"""Connecting to one of several addresses: the first that answers (RFC 8305)."""

from __future__ import annotations

import asyncio
import errno
import socket
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Final

from agent.config import limits
from agent.http.client.exchange import EXHAUSTED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agent.http.resolver import Address

_LEAST: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETUNREACH)
"""This guest has no such network at all, which says nothing about the server."""


def interleaved(addresses: Sequence[Address]) -> tuple[Address, ...]:
    """In the given order, but by turns of a family each, beginning with the first one's."""
    if not addresses:
        return ()
    first = addresses[0].family
    own = [each for each in addresses if each.family == first]
    others = [each for each in addresses if each.family != first]
    turns = chain.from_iterable(zip_longest(own, others))
    return tuple(each for each in turns if each is not None)


def telling(errors: Sequence[OSError]) -> OSError:
    """The error that says most about why no address answers; of equals the first.

    Args:
        errors: one of each address, at least one.
    """

    def rank(error: OSError) -> int:
        if error.errno in EXHAUSTED:  # not the server's fault
            return 0
        if error.errno == errno.ECONNREFUSED:  # the machine is there
            return 1
        return 3 if error.errno in _LEAST else 2

    return min(errors, key=rank)


async def dial(address: Address) -> socket.socket:
    """A connected socket that does not block.

    Raises:
        OSError: the kernel's.
    """
    made = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)  # noqa: FBT003  # its only argument
        await asyncio.get_running_loop().sock_connect(made, address.sockaddr)
    except BaseException:
        made.close()
        raise
    return made


async def race(
    addresses: Sequence[Address],
    dial: Callable[[Address], Awaitable[socket.socket]] = dial,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> socket.socket:
    """Connect to the first address that answers. All other sockets are closed, also when cancelled.

    The next address is tried when the one before failed, or after ``limits.HTTP_ADDRESS_PAUSE``.

    Args:
        addresses: at least one.
        dial: connects; a test's own.
        pause: waits; a test's own.

    Raises:
        OSError: the most telling one, when none answers.
    """
    if len(addresses) == 1:
        return await dial(addresses[0])
    left = list(interleaved(addresses))
    errors: list[OSError] = []
    running: set[asyncio.Future[socket.socket]] = set()
    try:
        while left or running:
            if left:
                running.add(asyncio.ensure_future(dial(left.pop(0))))
            timer = asyncio.ensure_future(pause(limits.HTTP_ADDRESS_PAUSE)) if left else None
            try:
                won = await _first(running, timer, errors)
            finally:
                if timer is not None:
                    timer.cancel()
            if won is not None:
                return won
    finally:
        # T-HTTP-52: a slow address must not leave a socket behind.
        for other in running:
            _let_go(other)
    raise telling(errors)


async def _first(
    running: set[asyncio.Future[socket.socket]],
    timer: asyncio.Future[None] | None,
    errors: list[OSError],
) -> socket.socket | None:
    """Wait until one connects or fails, or the timer ends; takes the one that connected out of the set."""
    waiting: set[asyncio.Future[Any]] = {*running} if timer is None else {*running, timer}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for each in tuple(running):
        if not each.done():
            continue
        running.discard(each)
        error = each.exception()
        if error is None:
            return each.result()
        if not isinstance(error, OSError):
            raise error
        errors.append(error)
    return None


def _let_go(dialled: asyncio.Future[socket.socket]) -> None:
    """It lost, or nobody waits any more."""
    dialled.add_done_callback(_close)
    dialled.cancel()


def _close(dialled: asyncio.Future[socket.socket]) -> None:
    if not dialled.cancelled() and dialled.exception() is None:
        dialled.result().close()
