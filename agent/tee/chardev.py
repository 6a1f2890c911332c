"""Character devices and their ioctls, with the reasons an operator can act on."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable

Ioctl: TypeAlias = "Callable[[int, int, bytearray], None]"
"""Descriptor, request, argument; the argument is changed in place. Raises OSError."""

_REASONS: Final = {
    errno.ENOENT: ErrorCode.QUOTE_PATH_MISSING,
    errno.ENXIO: ErrorCode.QUOTE_PATH_MISSING,
    errno.ENODEV: ErrorCode.QUOTE_PATH_MISSING,
    errno.ENOTTY: ErrorCode.QUOTE_PATH_MISSING,
    errno.EACCES: ErrorCode.DEVICE_FORBIDDEN,
    errno.EPERM: ErrorCode.DEVICE_FORBIDDEN,
    errno.EBUSY: ErrorCode.DEVICE_BUSY,
    errno.EAGAIN: ErrorCode.DEVICE_BUSY,
    errno.ETIMEDOUT: ErrorCode.EVIDENCE_TIMEOUT,
}


def system_ioctl(descriptor: int, request: int, argument: bytearray) -> None:
    """ioctl(2); tried again when a signal interrupts it."""
    while True:
        try:
            fcntl.ioctl(descriptor, request, argument, True)  # noqa: FBT003 - mutate_flag has no other spelling
        except InterruptedError:
            continue
        return


class Buffer:
    """Memory at an address that stays, for structures that point to others.

    Args:
        data: what is in it at first.
        size: of the whole, zeros behind ``data``.
    """

    def __init__(self, data: bytes = b"", size: int = 0) -> None:
        self._memory = ctypes.create_string_buffer(data, max(len(data), size, 1))

    @property
    def address(self) -> int:
        """Where it is; valid as long as the object lives."""
        return ctypes.addressof(self._memory)

    @property
    def content(self) -> bytes:
        """All of it."""
        return self._memory.raw


def at(address: int, size: int) -> bytes:
    """Bytes at an address that a :class:`Buffer` of this process has; for stand-ins of ioctls in tests."""
    return ctypes.string_at(address, size)


def put(address: int, data: bytes) -> None:
    """Write there, as a driver does; for stand-ins of ioctls in tests."""
    ctypes.memmove(address, data, len(data))


class Device:
    """An open character device.

    Args:
        sysroot: prefix of the path.
        path: below it, e.g. ``dev/uv``.
        tee: wire string for errors.
        flags: for open(2).
        ioctl: injected in tests.

    Raises:
        AgentError: QUOTE_PATH_MISSING, DEVICE_FORBIDDEN, DEVICE_BUSY, EVIDENCE_FAILED.
    """

    def __init__(
        self, sysroot: str, path: str, tee: str, *, flags: int = os.O_RDWR, ioctl: Ioctl = system_ioctl
    ) -> None:
        self._shown = f"{tee}: /{path}"
        self._ioctl = ioctl
        try:
            self._descriptor = os.open(os.path.join(sysroot, path), flags | os.O_CLOEXEC)  # noqa: PTH118
        except OSError as error:
            raise reason(error, self._shown) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def ask(self, request: int, argument: bytearray, what: str) -> None:
        """One ioctl.

        Args:
            request: its number.
            argument: the structure, changed in place.
            what: for errors, e.g. ``attestation``.

        Raises:
            AgentError: as the constructor; EVIDENCE_TIMEOUT for ETIMEDOUT.
        """
        try:
            self._ioctl(self._descriptor, request, argument)
        except OSError as error:
            raise reason(error, f"{self._shown}: {what}") from None


def reason(error: OSError, where: str) -> AgentError:
    """What an errno of a device means to an operator."""
    number = error.errno or errno.EIO
    return AgentError(_REASONS.get(number, ErrorCode.EVIDENCE_FAILED), f"{where}: {os.strerror(number)}")


def read_file(sysroot: str, path: str, limit: int, tee: str) -> bytes:
    """A pseudo file to its end.

    Raises:
        AgentError: as :class:`Device`; EVIDENCE_FAILED, more than ``limit`` bytes.
    """
    shown = f"{tee}: /{path}"
    try:
        descriptor = os.open(os.path.join(sysroot, path), os.O_RDONLY | os.O_CLOEXEC)  # noqa: PTH118
        try:
            content = b""
            while len(content) <= limit and (more := os.read(descriptor, limit + 1)):
                content += more
        finally:
            os.close(descriptor)
    except OSError as error:
        raise reason(error, shown) from None
    if len(content) > limit:
        raise AgentError(ErrorCode.EVIDENCE_FAILED, f"{shown}: more than {limit} bytes")
    return content


def write_file(sysroot: str, path: str, data: bytes, tee: str) -> None:
    """One write of a pseudo file.

    Raises:
        AgentError: as :class:`Device`.
    """
    shown = f"{tee}: /{path}"
    try:
        descriptor = os.open(os.path.join(sysroot, path), os.O_WRONLY | os.O_CLOEXEC)  # noqa: PTH118
        try:
            written = os.write(descriptor, data)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise reason(error, shown) from None
    if written != len(data):
        raise AgentError(ErrorCode.EVIDENCE_FAILED, f"{shown}: took {written} of {len(data)} bytes")
