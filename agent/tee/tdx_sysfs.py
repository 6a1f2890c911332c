"""TDX measurement registers in sysfs, Linux 6.16 and newer (attesters.md 3.3).

The kernel takes exactly 48 bytes at offset 0 as an extend. See Linux
Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from agent.errors import AgentError, ErrorCode

MEASUREMENTS: Final = "sys/devices/virtual/misc/tdx_guest/measurements"
SIZE: Final = 48
RTMRS: Final = 4


def problem(sysroot: str) -> str | None:
    """Why RTMRs cannot be read and extended; None when they can."""
    if not os.path.isdir(Path(sysroot, MEASUREMENTS)):  # noqa: PTH112 - never raises
        return f"no /{MEASUREMENTS}: extending an RTMR needs Linux 6.16 or newer with the driver tdx-guest"
    for rtmr in range(RTMRS):
        path = _rtmr(sysroot, rtmr)
        if not os.path.exists(path):  # noqa: PTH110 - never raises
            return f"no {path.name} in /{MEASUREMENTS}"
        if not os.access(path, os.R_OK | os.W_OK):
            return f"/{MEASUREMENTS}/{path.name} cannot be written by user {os.geteuid()}"
    return None


def config_id(sysroot: str) -> bytes | None:
    """MRCONFIGID, 48 bytes; None where the kernel does not show it.

    Raises:
        AgentError: DEVICE_FORBIDDEN, EVIDENCE_FAILED.
    """
    try:
        return _read(Path(sysroot, MEASUREMENTS, "mrconfigid"))
    except FileNotFoundError:
        return None


def read_rtmr(sysroot: str, rtmr: int) -> bytes:
    """The value of RTMR 0 to 3, 48 bytes.

    Raises:
        AgentError: NOT_SUPPORTED, DEVICE_FORBIDDEN, EVIDENCE_FAILED.
    """
    path = _rtmr(sysroot, rtmr)
    try:
        return _read(path)
    except FileNotFoundError:
        raise _missing(sysroot, path) from None


def extend_rtmr(sysroot: str, rtmr: int, digest: bytes) -> None:
    """Make RTMR 0 to 3 SHA-384(RTMR || digest).

    Raises:
        AgentError: INVALID_REQUEST, not 48 bytes; NOT_SUPPORTED, DEVICE_FORBIDDEN, DEVICE_BUSY,
            EVIDENCE_FAILED.
    """
    if len(digest) != SIZE:
        raise AgentError(ErrorCode.INVALID_REQUEST, f"a digest of {len(digest)} bytes; an RTMR takes {SIZE}")
    path = _rtmr(sysroot, rtmr)
    try:
        opened = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = os.pwrite(opened, digest, 0)
        finally:
            os.close(opened)
    except FileNotFoundError:
        raise _missing(sysroot, path) from None
    except OSError as error:
        raise _failed(path, error) from None
    if written != SIZE:
        raise AgentError(ErrorCode.EVIDENCE_FAILED, f"{path} took {written} of {SIZE} bytes")


def _rtmr(sysroot: str, rtmr: int) -> Path:
    return Path(sysroot, MEASUREMENTS, f"rtmr{rtmr}:sha384")


def _read(path: Path) -> bytes:
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            value = os.pread(opened, SIZE + 1, 0)
        finally:
            os.close(opened)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _failed(path, error) from None
    if len(value) != SIZE:
        raise AgentError(ErrorCode.EVIDENCE_FAILED, f"{path} has {len(value)} bytes, not {SIZE}")
    return value


def _missing(sysroot: str, path: Path) -> AgentError:
    return AgentError(ErrorCode.NOT_SUPPORTED, problem(sysroot) or f"no {path}")


def _failed(path: Path, error: OSError) -> AgentError:
    code = error.errno or errno.EIO
    text = f"{path}: {os.strerror(code)}"
    if code in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return AgentError(ErrorCode.DEVICE_FORBIDDEN, text)
    if code in {errno.EBUSY, errno.EAGAIN}:
        return AgentError(ErrorCode.DEVICE_BUSY, text)
    return AgentError(ErrorCode.EVIDENCE_FAILED, text)
