"""Evidence of an SGX enclave below a LibOS (attesters.md 8).

Gramine offers pseudo files, Occlum an ioctl of its own device (its dcap library's numbers; not tried on
hardware here).
"""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent.errors import AgentError, ErrorCode
from agent.tee.base import pad
from agent.tee.chardev import Buffer, Device, Ioctl, read_file, system_ioctl, write_file

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.config.model import Attester as Settings

REPORT_DATA: Final = 64
QUOTE_MAX: Final = 64 * 1024
"""A quote with its certificates has about 5 KiB."""

OCCLUM_QUOTE_SIZE: Final = 0x80047307
OCCLUM_QUOTE: Final = 0xC0187308

_GRAMINE: Final = "dev/attestation"
_OCCLUM: Final = "dev/sgx"
_TYPE_MAX: Final = 64
_HEADER: Final = 48


class _Evidence(msgspec.Struct, frozen=True):
    quote: str


def collect(
    settings: Settings, report_data: bytes, deadline: Deadline, *, ioctl: Ioctl = system_ioctl
) -> bytes:
    """``{"quote": base64}`` over the report data, padded to 64 bytes.

    Raises:
        AgentError: INVALID_REQUEST (too long), QUOTE_PATH_MISSING (no LibOS, or one without remote
            attestation), EVIDENCE_FAILED.
    """
    del deadline  # files of the LibOS in this process; nothing to interrupt
    data = pad(report_data, REPORT_DATA)
    root = settings.sysroot
    if (Path(root) / _GRAMINE).exists():
        quote = _gramine(root, data)
    elif (Path(root) / _OCCLUM).exists():
        quote = _occlum(root, data, ioctl)
    else:
        raise AgentError(
            ErrorCode.QUOTE_PATH_MISSING, "sgx: neither Gramine's /dev/attestation nor Occlum's /dev/sgx"
        )
    if len(quote) <= _HEADER:
        raise AgentError(ErrorCode.EVIDENCE_FAILED, f"sgx: a quote of {len(quote)} bytes")
    return msgspec.json.encode(_Evidence(b64encode(quote).decode()))


def _gramine(root: str, data: bytes) -> bytes:
    kind = read_file(root, f"{_GRAMINE}/attestation_type", _TYPE_MAX, "sgx")
    if kind != b"dcap":
        shown = kind[:16].decode("ascii", "replace").strip()
        raise AgentError(ErrorCode.QUOTE_PATH_MISSING, f"sgx: Gramine attests with {shown!a}, not with dcap")
    write_file(root, f"{_GRAMINE}/user_report_data", data, "sgx")
    return read_file(root, f"{_GRAMINE}/quote", QUOTE_MAX, "sgx")


def _occlum(root: str, data: bytes, ioctl: Ioctl) -> bytes:
    with Device(root, _OCCLUM, "sgx", ioctl=ioctl) as device:
        size = bytearray(4)
        device.ask(OCCLUM_QUOTE_SIZE, size, "quote size")
        length = int.from_bytes(size, "little")
        if not _HEADER < length <= QUOTE_MAX:
            raise AgentError(ErrorCode.EVIDENCE_FAILED, f"sgx: a quote of {length} bytes")
        user, room, quote = Buffer(data), Buffer(bytes(size)), Buffer(size=length)
        argument = bytearray()
        for part in (user, room, quote):
            argument += part.address.to_bytes(8, "little")
        device.ask(OCCLUM_QUOTE, argument, "quote")
        used = int.from_bytes(room.content, "little")
        return quote.content[: min(used, length)]
