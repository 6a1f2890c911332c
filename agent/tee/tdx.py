"""Evidence of Intel TDX guests (attesters.md 3), their init-data and their measurement registers."""

from __future__ import annotations

import base64
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config.device_kinds import vsock
from agent.errors import AgentError, ErrorCode
from agent.tee import tdx_qgs, tdx_report, tdx_sysfs, tsm
from agent.tee.base import pad, regularize
from agent.tee.eventlog import shipped

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.config.model import Attester as Settings
    from agent.tee.tdx_qgs import Connect
    from agent.tee.tdx_report import Ioctl

ALGORITHM: Final = "sha384"
"""Of the runtime measurement registers."""

FIRMWARE_LOG: Final = True
"""Verifiers replay our event log behind the firmware's (attesters.md 21.3)."""

PROVIDER: Final = "tdx_guest"
_REPORT_DATA: Final = 64
_PCRS: Final = 24


def collect(
    settings: Settings,
    report_data: bytes,
    deadline: Deadline,
    *,
    ioctl: Ioctl = fcntl.ioctl,
    connect: Connect = tdx_qgs.connect,
) -> bytes:
    """``{"cc_eventlog":<base64 or null>,"quote":<base64>}`` (attesters.md 3.5).

    Args:
        settings: ``sysroot``, ``tdx_quote_vsock``, and where the event log is.
        report_data: padded with zeros to 64 bytes.
        deadline: when the caller stops waiting.
        ioctl: ``fcntl.ioctl``, or what a test puts in its place.
        connect: opens the vsock, or what a test puts in its place.

    Raises:
        AgentError: INVALID_REQUEST, QUOTE_PATH_MISSING, QUOTE_SERVICE_UNREACHABLE, DEVICE_FORBIDDEN,
            DEVICE_BUSY, EVIDENCE_TIMEOUT, EVIDENCE_MALFORMED, EVIDENCE_FAILED, EVENT_LOG_CORRUPT.
    """
    wanted = pad(report_data, _REPORT_DATA)
    if settings.tdx_quote_vsock:
        report = tdx_report.read(settings.sysroot, wanted, ioctl)
        quote = tdx_qgs.quote(vsock(settings.tdx_quote_vsock), report, deadline, connect)
    else:
        quote = _by_kernel(settings.sysroot, wanted, deadline)
    carried = _report_data(quote)
    # T-TEE-37: the field a verifier looks at, checked where a mix-up can still be told.
    if carried is not None and carried != wanted:
        raise AgentError(ErrorCode.EVIDENCE_FAILED, "the TDX quote carries other report data than ours")
    log = shipped(settings)
    evidence = {"cc_eventlog": None if log is None else _base64(log), "quote": _base64(quote)}
    return msgspec.json.encode(evidence)


def bind_init_data(settings: Settings, digest: bytes, *, ioctl: Ioctl = fcntl.ioctl) -> None:
    """Compare the digest, cut or padded to 48 bytes, with MRCONFIGID (attesters.md 16.3).

    Raises:
        AgentError: INIT_DATA_MISMATCH; QUOTE_PATH_MISSING, neither sysfs nor the driver tells the register;
            DEVICE_FORBIDDEN, EVIDENCE_FAILED.
    """
    register = tdx_sysfs.config_id(settings.sysroot)
    if register is None:
        register = tdx_report.config_id(tdx_report.read(settings.sysroot, bytes(_REPORT_DATA), ioctl))
    if register != regularize(digest, tdx_sysfs.SIZE):
        raise AgentError(
            ErrorCode.INIT_DATA_MISMATCH,
            f"MRCONFIGID is {register.hex()}, the init-data's digest is {digest.hex()}",
        )


def measurement_problem(settings: Settings) -> str | None:
    """Why RTMRs cannot be read and extended in this guest; None when they can."""
    return tdx_sysfs.problem(settings.sysroot)


def register_of(pcr: int) -> int:
    """The measurement register index 1 to 4 (RTMR0 to RTMR3) for a PCR number (attesters.md 17.4).

    Raises:
        AgentError: INVALID_REQUEST. PCR 0 is MRTD here, which nobody can extend.
    """
    if not 0 <= pcr < _PCRS:
        raise AgentError(ErrorCode.INVALID_REQUEST, f"there is no PCR {pcr}; they are 0 to {_PCRS - 1}")
    if pcr == 0:
        raise AgentError(ErrorCode.INVALID_REQUEST, "PCR 0 is MRTD on TDX, which software cannot extend")
    if pcr in {1, 7}:
        return 1
    if pcr < 7:
        return 2
    return 3 if pcr < 16 else 4


def read_register(settings: Settings, register: int) -> bytes:
    """The value of RTMR ``register - 1``, 48 bytes.

    Args:
        settings: ``sysroot``.
        register: 1 to 4.

    Raises:
        AgentError: INVALID_REQUEST, NOT_SUPPORTED, DEVICE_FORBIDDEN, EVIDENCE_FAILED.
    """
    return tdx_sysfs.read_rtmr(settings.sysroot, _rtmr(register))


def extend_register(settings: Settings, register: int, digest: bytes) -> None:
    """Make RTMR ``register - 1`` SHA-384(RTMR || digest).

    Args:
        settings: ``sysroot``.
        register: 1 to 4.
        digest: 48 bytes.

    Raises:
        AgentError: INVALID_REQUEST, NOT_SUPPORTED, DEVICE_FORBIDDEN, DEVICE_BUSY, EVIDENCE_FAILED.
    """
    tdx_sysfs.extend_rtmr(settings.sysroot, _rtmr(register), digest)


def _rtmr(register: int) -> int:
    if not 1 <= register <= 4:
        raise AgentError(ErrorCode.INVALID_REQUEST, f"there is no measurement register {register} on TDX")
    return register - 1


def _by_kernel(sysroot: str, wanted: bytes, deadline: Deadline) -> bytes:
    try:
        return tsm.request(sysroot, PROVIDER, wanted, deadline).outblob
    except AgentError as error:
        if error.code is not ErrorCode.QUOTE_PATH_MISSING:
            raise
        there = os.path.exists(Path(sysroot, tdx_report.DEVICE))  # noqa: PTH110 - never raises
        device = f"/{tdx_report.DEVICE} {'is there' if there else 'is missing too'}"
        raise AgentError(
            error.code,
            f"{device}, but a quote needs configfs-tsm: {error.detail}. Where the host offers its quote "
            'generation service on vsock, set attester.tdx_quote_vsock, for example "2:4050"',
        ) from None


def _report_data(quote: bytes) -> bytes | None:
    """The report data of a quote of version 4 or 5 (attesters.md 18.3); None for versions yet to come."""
    version, body = int.from_bytes(quote[:2], "little"), int.from_bytes(quote[48:50], "little")
    if version == 4:
        start = 48
    elif version == 5 and body in {2, 3}:
        start = 54
    else:
        return None  # the verifier's to judge: a new version must not need a new agent
    return quote[start + 520 : start + 584]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
