"""The TDX module's report, by the guest driver's ioctl (attesters.md 3.2; Linux uapi/linux/tdx-guest.h)."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable

    Ioctl = Callable[[int, int, bytearray], object]

DEVICE: Final = "dev/tdx_guest"
GET_REPORT0: Final = 0xC4405401
REPORT_SIZE: Final = 1024
_REPORT_DATA: Final = 64
_DATA_AT: Final = 128
_CONFIG_ID: Final = 512 + 64
_TRIES: Final = 16


def read(sysroot: str, report_data: bytes, ioctl: Ioctl = fcntl.ioctl) -> bytes:
    """A TDREPORT over 64 bytes of report data, 1024 bytes (attesters.md 18.2).

    Raises:
        AgentError: QUOTE_PATH_MISSING, DEVICE_FORBIDDEN, EVIDENCE_FAILED.
    """
    path = Path(sysroot, DEVICE)
    if len(report_data) != _REPORT_DATA:
        raise AgentError(
            ErrorCode.INVALID_REQUEST, f"{len(report_data)} bytes of report data, not {_REPORT_DATA}"
        )
    try:
        opened = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _not_opened(path, error.errno or errno.EIO) from None
    try:
        if not stat.S_ISCHR(os.fstat(opened).st_mode):
            raise AgentError(ErrorCode.EVIDENCE_FAILED, f"{path} is not a device")
        return _ask(opened, path, report_data, ioctl)
    finally:
        os.close(opened)


def config_id(report: bytes) -> bytes:
    """MRCONFIGID of a TDREPORT, 48 bytes."""
    return report[_CONFIG_ID : _CONFIG_ID + 48]


def _ask(opened: int, path: Path, report_data: bytes, ioctl: Ioctl) -> bytes:
    for _ in range(_TRIES):
        exchange = bytearray(report_data + bytes(REPORT_SIZE))
        try:
            ioctl(opened, GET_REPORT0, exchange)
        except InterruptedError:
            continue
        except OSError as error:
            raise AgentError(
                ErrorCode.EVIDENCE_FAILED,
                f"{path} gives no TDREPORT: {os.strerror(error.errno or errno.EIO)}",
            ) from None
        report = bytes(exchange[_REPORT_DATA:])
        # T-TEE-37: a driver that did nothing leaves zeros, and zeros must not become a register's value.
        if report[:1] != b"\x81" or report[_DATA_AT : _DATA_AT + _REPORT_DATA] != report_data:
            raise AgentError(
                ErrorCode.EVIDENCE_FAILED, f"{path}: its TDREPORT does not carry our report data"
            )
        return report
    raise AgentError(ErrorCode.EVIDENCE_FAILED, f"{path} was interrupted {_TRIES} times")


def _not_opened(path: Path, code: int) -> AgentError:
    if code in {errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV}:
        return AgentError(
            ErrorCode.QUOTE_PATH_MISSING,
            f"no {path}: the driver tdx-guest (CONFIG_TDX_GUEST_DRIVER) is not loaded",
        )
    if code not in {errno.EACCES, errno.EPERM}:
        return AgentError(ErrorCode.EVIDENCE_FAILED, f"{path}: {os.strerror(code)}")
    mode = os.stat(path).st_mode & 0o7777 if os.path.exists(path) else 0  # noqa: PTH116, PTH110 - must not raise
    return AgentError(ErrorCode.DEVICE_FORBIDDEN, f"{path}, mode {mode:04o}: {os.strerror(code)}")
