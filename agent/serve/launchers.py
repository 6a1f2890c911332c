"""The daemon's side of the hand-over: roles opened for launchers (``agent/handover.py``)."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

import msgspec

from agent import handover
from agent.config import limits
from agent.serve.sockets import TCP, is_listening
from agent.serve.ttrpc.server import peer_text, peer_uid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agent.serve.sockets import BoundSocket

log = logging.getLogger("coco.launchers")

_ERRNO_DIGITS: Final = 5
_RIGHTS: Final = socket.CMSG_SPACE(4 * limits.LAUNCHERS_MAX)


class RefusedError(Exception):
    """The launcher is to print a text and exit.

    Args:
        status: exit status.
        text: for standard error.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class AloneError(Exception):
    """The launcher is to run its role itself; the text says why."""


class _GoneError(Exception):
    """The launcher has ended before its role was open."""


class _UnboundError(Exception):
    """The launcher cannot listen where it was told to; the text says why."""


class Plan(msgspec.Struct, frozen=True):
    """How a role is opened and closed.

    Attributes:
        role: its name; a second launcher of the same role and place takes over from the first.
        where: what it serves at. A launcher of the same role elsewhere runs it alone.
        bind: host and port the launcher listens on for us; None: it does not.
        open: may raise RefusedError; then the role is not open.
        close: closes it.
    """

    role: str
    where: str
    bind: tuple[str, int] | None
    open: Callable[[Sequence[socket.socket]], Awaitable[None]]
    close: Callable[[], Awaitable[None]]


class _Holder(msgspec.Struct, frozen=True):
    """The launcher whose role is open, and where."""

    connection: socket.socket
    where: str


class Launchers:
    """Serves launchers on the private socket.

    Args:
        plan: what to do for one; may raise RefusedError or AloneError.
        listener: SOCK_SEQPACKET, at ``handover.PATH``; closed by :meth:`stop`.
    """

    def __init__(self, plan: Callable[[handover.Wanted], Plan], listener: BoundSocket) -> None:
        self._plan = plan
        self._listener = listener
        self._tasks: set[asyncio.Task[None]] = set()
        self._holders: dict[str, _Holder] = {}
        self._one_at_a_time = asyncio.Lock()

    def start(self) -> None:
        """Serve those who wait, and who come."""
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    async def stop(self) -> None:
        """Tell all launchers that it is over."""
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.unlink()
            self._listener.close()
        holders = list(self._holders.values())
        self._holders.clear()
        for holder in holders:
            await _say(holder.connection, b"end")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.ECONNABORTED}:
                log.warning("a launcher cannot be accepted", extra={"reason": error.strerror})
            return
        connection.setblocking(False)  # noqa: FBT003
        # T-CTRL-6: there are two programs that hand over; more connections are somebody's loop.
        if len(self._tasks) >= limits.LAUNCHERS_MAX:
            connection.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            plan: Plan | None = None
            try:
                async with asyncio.timeout(limits.LAUNCH_DEADLINE):
                    wanted = await _wanted(connection)
                    async with self._one_at_a_time:
                        plan = await self._open(connection, wanted)
                log.info("role opened", extra={"role": plan.role, "peer": peer_text(connection)})
                with suppress(OSError):
                    await _receive(connection)  # it says no more: this is its end
            except RefusedError as refused:
                await _say(connection, b"fail", str(refused.status), refused.text)
            except AloneError as alone:
                log.info("a launcher runs its role itself", extra={"reason": str(alone)})
                await _say(connection, b"alone", str(alone))
            except _UnboundError as unbound:
                log.warning("the REST address cannot be bound", extra={"reason": str(unbound)})
            except (_GoneError, BrokenPipeError, ConnectionResetError):
                log.info("a launcher ended before its role was open", extra={"peer": peer_text(connection)})
            except (OSError, ValueError, TimeoutError) as error:
                log.warning("a launcher was not understood", extra={"error": type(error).__name__})
            finally:
                if plan is not None and self._holds(plan.role, connection):
                    del self._holders[plan.role]
                    await plan.close()
                    log.info("role closed", extra={"role": plan.role})

    def _holds(self, role: str, connection: socket.socket) -> bool:
        holder = self._holders.get(role)
        return holder is not None and holder.connection is connection

    async def _open(self, connection: socket.socket, wanted: handover.Wanted) -> Plan:
        plan = self._plan(wanted)
        before = self._holders.get(plan.role)
        if before is not None and before.where != plan.where:
            raise AloneError("the role is open elsewhere")
        listeners = [] if plan.bind is None else await _listeners_of(connection, *plan.bind)
        try:
            # T-CTRL-9: fails for a launcher that waited in vain; its role runs alone by now, at that place.
            await asyncio.get_running_loop().sock_sendall(connection, b"opening")
            await self._replace(before, plan, listeners)
        except BaseException:
            for listener in listeners:
                listener.close()
            raise
        self._holders[plan.role] = _Holder(connection, plan.where)
        await _say(connection, b"done")
        return plan

    async def _replace(self, before: _Holder | None, plan: Plan, listeners: Sequence[socket.socket]) -> None:
        self._holders.pop(plan.role, None)
        try:
            await plan.open(listeners)
        finally:
            if before is not None:
                # Its program may go: the role is its successor's, or nobody's.
                await _say(before.connection, b"end")


async def _wanted(connection: socket.socket) -> handover.Wanted:
    if peer_uid(connection) not in {0, os.geteuid()}:
        raise AloneError("another user's launcher")
    message, none = await _receive(connection)
    _close(none)
    if not message:
        raise _GoneError
    return handover.Wanted.decode(handover.decode(message))


async def _listeners_of(connection: socket.socket, host: str, port: int) -> list[socket.socket]:
    """The listening sockets a launcher makes where it is: one, or two for ``localhost``."""
    await _say(connection, b"bind", host, str(port), str(limits.REST_BACKLOG))
    message, passed = await _receive(connection)
    if not message:
        raise _GoneError
    if message.startswith(b"unbound\0"):
        _close(passed)
        raise _UnboundError(_why_unbound(message, host, port))
    one_or_two = len(passed) in {1, len(handover.LOCALHOST)}
    if message != b"bound" or not one_or_two or not all(map(_is_socket, passed)):
        _close(passed)
        raise ValueError("no listening sockets")
    listeners = [socket.socket(fileno=number) for number in passed]
    if not _asked_for(listeners, host, port):
        for listener in listeners:
            listener.close()
        raise ValueError("not the listening sockets that were asked for")
    for listener in listeners:
        listener.setblocking(False)  # noqa: FBT003
    return listeners


def _why_unbound(message: bytes, host: str, port: int) -> str:
    """From the number alone: no text of a peer gets into the log."""
    _, text = handover.decode(message)
    number = int(text[:_ERRNO_DIGITS])
    hosts = handover.LOCALHOST if host in handover.LOCALHOST else (host,)
    places = " or ".join(f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in hosts)
    return handover.refusal(OSError(number, os.strerror(number), places))


def _is_socket(descriptor: int) -> bool:
    return stat.S_ISSOCK(os.fstat(descriptor).st_mode)


def _asked_for(listeners: Sequence[socket.socket], host: str, port: int) -> bool:
    """Whether they are at the address that was asked for and, perhaps, at the other one of ``localhost``."""
    # T-CTRL-7: what is served must be what was asked for, whatever came over the socket.
    if not all(listener.family in TCP and is_listening(listener) for listener in listeners):
        return False
    (first_host, first_port), *others = [listener.getsockname()[:2] for listener in listeners]
    # T-CTRL-20: nor may one of two sockets be somewhere else, where others would reach the REST API.
    at = ip_address(first_host) == ip_address(host) and port in {0, first_port}
    return at and others in ([], handover.unheld(listeners[:1]))


async def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """One message, and the descriptors that came with it."""
    await _ready(connection)
    # T-CTRL-8: bounded; the kernel cuts what is longer, and a cut message is refused.
    message, rights, flags, _ = connection.recvmsg(handover.MESSAGE_MAX, _RIGHTS, socket.MSG_CMSG_CLOEXEC)
    passed: list[int] = []
    for level, kind, data in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            passed += memoryview(data[: len(data) // 4 * 4]).cast("i")
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        _close(passed)
        raise ValueError("a message that is too long")
    return message, passed


async def _ready(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(connection, wake)
    try:
        await readable
    finally:
        loop.remove_reader(connection)


async def _say(connection: socket.socket, *fields: bytes | str) -> None:
    with suppress(OSError):  # a launcher that is gone is noticed where its messages are read
        await asyncio.get_running_loop().sock_sendall(connection, handover.encode(*fields))


def _close(passed: list[int]) -> None:
    for descriptor in passed:
        os.close(descriptor)
