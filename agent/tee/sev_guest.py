"""The SEV guest driver's ioctls (attesters.md 2.1, 2.2; Linux uapi/linux/sev-guest.h).

What is asked and what an answer means are functions of bytes and numbers; :class:`SevGuest` does the calls.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.config import limits
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.tee.backoff import Backoff

    Ioctl = Callable[[int, int, ctypes.Structure], object]

DEVICE: Final = "dev/sev-guest"
GET_REPORT: Final = 0xC0205300
GET_EXT_REPORT: Final = 0xC0205302
RESPONSE_SIZE: Final = 4000
REPORT_SIZE: Final = 1184
NO_ANSWER: Final = 0xFF
"""What ``exitinfo2`` holds while no firmware has answered."""

_USER_DATA: Final = 64
_HEAD: Final = 32
_PAGE: Final = 4096
_ALL_ONES: Final = (1 << 64) - 1
_INVALID_LEN: Final = 1
_VMM_BUSY: Final = 2
_INVALID_PARAM: Final = 0x16
_TABLE_TRIES: Final = 3
_INTERRUPTIONS: Final = 16
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV})

FIRMWARE: Final = (
    "success", "invalid platform state", "invalid guest state", "invalid configuration", "invalid length",
    "already owned", "invalid certificate", "policy failure", "inactive", "invalid address", "bad signature",
    "bad measurement", "ASID owned", "invalid ASID", "WBINVD required", "DF_FLUSH required",
    "invalid guest handle", "invalid command", "active", "hardware platform error", "hardware unsafe",
    "unsupported", "invalid parameter", "resource limit", "secure data invalid", "invalid page size",
    "invalid page state", "invalid metadata entry", "invalid page owner", "AEAD overflow", "reserved",
    "ring buffer exited", "RMP initialization required", "bad SVN", "bad version", "shutdown required",
    "update failed", "restore required", "RMP initialization failed", "invalid key",
)  # fmt: skip
"""Names of the security processor's status codes, 0x00 to 0x27 (attesters.md 2.2)."""


class GuestRequest(ctypes.Structure):
    """``struct snp_guest_request_ioctl``, 32 bytes; addresses are of this process."""

    _fields_ = (
        ("msg_version", ctypes.c_uint8),
        ("req_data", ctypes.c_uint64),
        ("resp_data", ctypes.c_uint64),
        ("exitinfo2", ctypes.c_uint64),
    )


def report_request(user_data: bytes, vmpl: int) -> bytes:
    """``struct snp_report_req``, 96 bytes.

    Args:
        user_data: 64 bytes.
        vmpl: 0 to 3, not below the level the guest runs at.
    """
    if len(user_data) != _USER_DATA:
        raise AgentError(
            ErrorCode.INVALID_REQUEST, f"{len(user_data)} bytes of report data, not {_USER_DATA}"
        )
    return user_data + vmpl.to_bytes(4, "little") + bytes(28)


def ext_report_request(user_data: bytes, vmpl: int, address: int, size: int) -> bytes:
    """``struct snp_ext_report_req``, 112 bytes.

    Args:
        user_data: 64 bytes.
        vmpl: 0 to 3.
        address: of the buffer for the certificate table; all ones for none.
        size: of that buffer, whole pages; 0 for none.
    """
    tail = address.to_bytes(8, "little") + size.to_bytes(4, "little") + bytes(4)
    return report_request(user_data, vmpl) + tail


def wanted_table(code: int, exitinfo2: int, request: bytes) -> int | None:
    """Bytes the certificate table needs, when the call failed for the want of room; else None.

    Args:
        code: errno, 0 for success.
        exitinfo2: as the driver left it.
        request: the ``snp_ext_report_req`` as the driver left it.
    """
    if code != errno.EIO or exitinfo2 >> 32 != _INVALID_LEN:
        return None
    return int.from_bytes(request[104:108], "little")


def table_room(wanted: int) -> int | None:
    """The size of the buffer to offer, whole pages; None when the table is larger than any buffer may be."""
    # T-TEE-38: the host names this number. Nothing is allocated beyond what the driver would take anyway.
    if not 0 < wanted <= limits.SNP_MAX_CERTS:
        return None
    return -(-wanted // _PAGE) * _PAGE


def failure(code: int, exitinfo2: int) -> AgentError:
    """What a failed call means.

    Args:
        code: errno, not 0.
        exitinfo2: as the driver left it: firmware's status below, the hypervisor's above bit 32.
    """
    name = errno.errorcode.get(code, str(code))
    if code == errno.ENOTTY:
        text = "the driver has no key for this privilege level any more (VMPCK disabled)"
        return AgentError(ErrorCode.DEVICE_KEY_WIPED, f"/{DEVICE}: {text} ({name})")
    if code == errno.ETIMEDOUT or (code == errno.EIO and exitinfo2 >> 32 == _VMM_BUSY):
        text = "the host throttles requests to the security processor; the driver wipes its key after that"
        return AgentError(ErrorCode.DEVICE_BUSY, f"/{DEVICE}: {text} ({name})")
    if code in {errno.EACCES, errno.EPERM}:
        return AgentError(ErrorCode.DEVICE_FORBIDDEN, f"/{DEVICE}: {os.strerror(code)}")
    texts = {
        errno.EIO: f"the request failed: {_exit_text(exitinfo2)}. The driver has wiped its key",
        errno.EINVAL: "the driver refuses the request: message version, or size of the certificate buffer",
        errno.EBADMSG: "the answer was not from the security processor. The driver has wiped its key",
        errno.EFAULT: "the driver cannot reach our buffers",
    }
    return AgentError(ErrorCode.EVIDENCE_FAILED, f"/{DEVICE}: {texts.get(code, os.strerror(code))} ({name})")


def _exit_text(exitinfo2: int) -> str:
    if exitinfo2 == NO_ANSWER:
        return "the firmware gave no answer"
    firmware, hypervisor = exitinfo2 & 0xFFFFFFFF, exitinfo2 >> 32
    if hypervisor:
        known = {_INVALID_LEN: "invalid length", _VMM_BUSY: "busy"}
        return f"the hypervisor says {hypervisor:#x} ({known.get(hypervisor, 'unknown')})"
    return f"the firmware says {firmware:#x} ({firmware_name(firmware)})"


def firmware_name(status: int) -> str:
    """The name of a status of the security processor."""
    return FIRMWARE[status] if status < len(FIRMWARE) else "unknown"


def report_of(response: bytes, vmpl: int) -> bytes:
    """The attestation report in a ``snp_report_resp`` of 4000 bytes.

    Args:
        response: as the driver filled it.
        vmpl: the level that was asked for, for the error.

    Raises:
        AgentError: CONFIG_INVALID, the level is not ours to ask; EVIDENCE_FAILED; EVIDENCE_MALFORMED.
    """
    status, size = (int.from_bytes(response[at : at + 4], "little") for at in (0, 4))
    if status == _INVALID_PARAM:
        raise AgentError(
            ErrorCode.CONFIG_INVALID,
            f"/{DEVICE}: the security processor refuses a report for privilege level {vmpl}: set "
            "attester.snp_vmpl to the level this guest runs at",
        )
    if status:
        raise AgentError(
            ErrorCode.EVIDENCE_FAILED,
            f"/{DEVICE}: the security processor answers {status:#x} ({firmware_name(status)})",
        )
    # T-TEE-9: the size is the firmware's word; one report has one length.
    if size != REPORT_SIZE or len(response) < _HEAD + REPORT_SIZE:
        raise AgentError(
            ErrorCode.EVIDENCE_MALFORMED, f"SNP report of {size} bytes in an answer of {len(response)}"
        )
    return response[_HEAD : _HEAD + REPORT_SIZE]


class SevGuest:
    """An opened ``/dev/sev-guest``.

    Args:
        opened: its descriptor.
        vmpl: the privilege level reports are for.
        backoff: how long to wait for a driver that is busy.
        ioctl: ``fcntl.ioctl``, or what a test puts in its place.
    """

    def __init__(self, opened: int, vmpl: int, backoff: Backoff, ioctl: Ioctl = fcntl.ioctl) -> None:
        self._opened = opened
        self._vmpl = vmpl
        self._backoff = backoff
        self._ioctl = ioctl

    def report(self, user_data: bytes) -> bytes:
        """The report alone, 1184 bytes.

        Raises:
            AgentError: see :func:`failure` and :func:`report_of`.
        """
        request = ctypes.create_string_buffer(report_request(user_data, self._vmpl), 96)
        code, exitinfo2, response = self._call(GET_REPORT, request)
        if code:
            raise failure(code, exitinfo2)
        return report_of(response, self._vmpl)

    def extended(self, user_data: bytes) -> tuple[bytes, bytes | None]:
        """The report, and the host's certificate table if it has one.

        A table that grows between two calls is asked for again; one that no buffer may hold is done without:
        the verifier can fetch certificates by itself.

        Raises:
            AgentError: see :func:`failure` and :func:`report_of`.
        """
        room = 0
        for _ in range(_TABLE_TRIES):
            table = mmap.mmap(-1, room) if room else None  # anonymous memory begins on a page
            address = _address(table) if table is not None else _ALL_ONES
            request = ctypes.create_string_buffer(
                ext_report_request(user_data, self._vmpl, address, room), 112
            )
            code, exitinfo2, response = self._call(GET_EXT_REPORT, request)
            if not code:
                return report_of(response, self._vmpl), table[:] if table is not None else None
            wanted = wanted_table(code, exitinfo2, request.raw)
            if wanted is None:
                raise failure(code, exitinfo2)
            if (fits := table_room(wanted)) is None:
                break
            room = fits
        return self.report(user_data), None

    def _call(self, command: int, request: ctypes.Array[ctypes.c_char]) -> tuple[int, int, bytes]:
        response = ctypes.create_string_buffer(RESPONSE_SIZE)
        for _ in range(_INTERRUPTIONS):
            self._backoff.check("asking the security processor")
            asked = GuestRequest(1, ctypes.addressof(request), ctypes.addressof(response), NO_ANSWER)
            try:
                self._ioctl(self._opened, command, asked)
            except OSError as error:
                code = error.errno or errno.EIO
            else:
                return 0, 0, response.raw
            if code in {errno.EAGAIN, errno.EBUSY}:
                self._backoff.wait(f"/{DEVICE} is busy")
            elif code != errno.EINTR:
                return code, int(asked.exitinfo2), b""
        return errno.EINTR, NO_ANSWER, b""


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


@contextmanager
def opened(sysroot: str) -> Iterator[int | None]:
    """The device's descriptor; None when there is no such device.

    Raises:
        AgentError: DEVICE_FORBIDDEN; EVIDENCE_FAILED, it is something else or cannot be opened.
    """
    path = Path(sysroot, DEVICE)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise _not_opened(path, error) from None
        yield None
        return
    try:
        if not stat.S_ISCHR(os.fstat(descriptor).st_mode):
            raise AgentError(ErrorCode.EVIDENCE_FAILED, f"{path} is not a device")
        yield descriptor
    finally:
        os.close(descriptor)


def _not_opened(path: Path, error: OSError) -> AgentError:
    code = error.errno or errno.EIO
    if code not in {errno.EACCES, errno.EPERM}:
        return AgentError(ErrorCode.EVIDENCE_FAILED, f"{path}: {os.strerror(code)}")
    mode = os.stat(path).st_mode & 0o7777 if os.path.exists(path) else 0  # noqa: PTH116, PTH110 - must not raise
    return AgentError(ErrorCode.DEVICE_FORBIDDEN, f"{path}, mode {mode:04o}: {os.strerror(code)}")
