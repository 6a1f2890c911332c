"""What a server's connection is doing, and how long it may."""

from __future__ import annotations

import enum
import select
import socket

import msgspec


class Times(msgspec.Struct, frozen=True):
    """Time limits of a server, in seconds, and least rates, in bytes per second.

    Attributes:
        idle: without a byte of a request.
        head: from a head's first byte to its last.
        body_grace, body_rate: a body has the grace, and more for each byte that came.
        write_grace, write_rate: an answer has the grace, and more for each byte that was taken off us.
        linger: given to input that is not wanted, so that the client reads its answer and not a reset.
        place: how long a connection without a request keeps its place when others want it.
        pace: the least time between two looks at all connections.
    """

    idle: float
    head: float
    body_grace: float
    body_rate: float
    write_grace: float
    write_rate: float
    linger: float
    place: float
    pace: float


class Phase(enum.Enum):
    """Of one connection."""

    IDLE = enum.auto()
    """Nothing of a request has come."""
    HEAD = enum.auto()
    WORK = enum.auto()
    """A request is under way; its body may still be coming."""
    WRITE = enum.auto()
    """Its answer is not out."""
    DRAIN = enum.auto()
    """Its answer is out, but not all of its body has come."""
    LINGER = enum.auto()
    """Nothing will be answered any more; what comes is dropped."""
    GONE = enum.auto()


MAY_END = frozenset({Phase.IDLE, Phase.HEAD, Phase.DRAIN, Phase.LINGER, Phase.GONE})


def due(times: Times, phase: Phase, began: float, size: int) -> float:
    """When a connection that waits for its peer has to be looked at.

    Args:
        times: the limits.
        phase: WORK when the body is waited for.
        began: when it began to wait, in seconds.
        size: bytes of the body that came, or of the answer that were taken.
    """
    if phase is Phase.IDLE:
        return began + times.idle
    if phase is Phase.WORK:
        # T-HTTP-14: a body that trickles holds a request slot.
        return began + times.body_grace + size / times.body_rate
    if phase is Phase.WRITE:
        # T-HTTP-15: an answer is held until its last byte was taken, and its time counts until then.
        return began + times.write_grace + size / times.write_rate
    # T-HTTP-13: a head that trickles holds a connection.
    return began + (times.head if phase is Phase.HEAD else times.linger)


def half_closed(sock: socket.socket) -> bool:
    """Whether a client that sends no more can still read: a unix socket tells, TCP does not."""
    if sock.family != socket.AF_UNIX:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), 0)  # a hang-up is always reported
    return not poll.poll(0)
