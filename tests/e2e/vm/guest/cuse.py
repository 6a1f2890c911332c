"""Character devices in user space: the kernel's CUSE protocol, as much as ioctls need (linux/fuse.h)."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from errno import ENOSYS
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_OPEN: Final = 14
_RELEASE: Final = 18
_FLUSH: Final = 25
_INTERRUPT: Final = 36
_IOCTL: Final = 39
_INIT: Final = 4096

_UNRESTRICTED: Final = 1
_RETRY: Final = 1 << 2
_BUFFER: Final = 1 << 17

_HEADER: Final = struct.Struct("<IIQQIIIHH")
_REPLY: Final = struct.Struct("<IiQ")
_IOCTL_IN: Final = struct.Struct("<QIIQII")
_IOCTL_OUT: Final = struct.Struct("<iIII")


class Span(NamedTuple):
    """Memory of the calling process."""

    address: int
    size: int


@dataclass(frozen=True, slots=True)
class Need:
    """Ask the kernel for memory of the caller, and where the answer will go.

    Attributes:
        read: to copy in before the handler is called again.
        write: where the data of ``Done`` goes, in this order.
    """

    read: Sequence[Span]
    write: Sequence[Span] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """The ioctl's result.

    Attributes:
        error: 0 or a positive errno; memory is written in both cases, as drivers do.
        data: for the spans of ``Need.write``, one after the other.
    """

    error: int = 0
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Ioctl:
    """One call, or the next round of one.

    Attributes:
        command: request code.
        argument: third argument of ioctl(2).
        data: what ``Need.read`` asked for; empty in the first round.
        room: bytes that may be written back.
    """

    command: int
    argument: int
    data: bytes = field(repr=False)
    room: int


def serve(name: str, handler: Callable[[Ioctl], Need | Done], ready: Callable[[], None]) -> None:
    """Be ``/dev/<name>`` until the process ends.

    Args:
        name: of the device.
        handler: answers ioctls; it keeps no state between rounds, since callers may be killed.
        ready: called when the device is there.
    """
    device = os.open("/dev/cuse", os.O_RDWR | os.O_CLOEXEC)
    while True:
        message = os.read(device, _BUFFER + 4096)
        _, opcode, unique, *_ = _HEADER.unpack_from(message)
        body = message[_HEADER.size :]
        if opcode == _INTERRUPT:
            continue
        error, answer = _answer(name, opcode, body, handler)
        os.write(device, _REPLY.pack(_REPLY.size + len(answer), -error, unique) + answer)
        if opcode == _INIT:
            ready()


def _answer(
    name: str, opcode: int, body: bytes, handler: Callable[[Ioctl], Need | Done]
) -> tuple[int, bytes]:
    if opcode == _INIT:
        major, minor = struct.unpack_from("<II", body)
        reply = struct.pack("<8I40x", major, minor, 0, _UNRESTRICTED, _BUFFER, _BUFFER, 0, 0)
        return 0, reply + f"DEVNAME={name}\0".encode("ascii")
    if opcode == _OPEN:
        return 0, bytes(16)
    if opcode in {_RELEASE, _FLUSH}:
        return 0, b""
    if opcode != _IOCTL:
        return ENOSYS, b""
    _, _, command, argument, size, room = _IOCTL_IN.unpack_from(body)
    data = body[_IOCTL_IN.size : _IOCTL_IN.size + size]
    result = handler(Ioctl(command, argument, data, room))
    if isinstance(result, Done):
        return 0, _IOCTL_OUT.pack(-result.error, 0, 0, 0) + result.data
    spans = b"".join(struct.pack("<QQ", *span) for span in (*result.read, *result.write))
    return 0, _IOCTL_OUT.pack(0, _RETRY, len(result.read), len(result.write)) + spans
