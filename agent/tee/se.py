"""Evidence of IBM Secure Execution through /dev/uv (attesters.md 9; Linux asm/uvdevice.h).

The report data of this TEE is a JSON document: the broker's attestation request with the digest of our
runtime data put in. All integers are big-endian.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from agent.errors import AgentError, ErrorCode
from agent.tee.base import pad
from agent.tee.chardev import Buffer, Device, Ioctl, system_ioctl

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.config.model import Attester as Settings

ATTEST: Final = 0xC0407501
"""``UVIO_IOCTL_ATT``: ``_IOWR('u', 1, struct uvio_ioctl_cb)``."""

DEVICE: Final = "dev/uv"
USER_DATA: Final = 64
TAGS: Final = 208

ARCB_MAX: Final = 0x100000
MEASUREMENT_MAX: Final = 0x8000
ADDITIONAL_MAX: Final = 0x8000

_CONTROL: Final = struct.Struct(">IHHQI44x")
_ATTEST: Final = struct.Struct(">QQQ256s16sIIIHH")
_EXECUTED: Final = 0x0001


class Request(msgspec.Struct, frozen=True):
    """The broker's attestation request; byte strings are standard base64 on the wire.

    Attributes:
        request_blob: attestation request control block, as the ultravisor takes it.
        measurement_size: bytes, at most :data:`MEASUREMENT_MAX`.
        additional_size: bytes, at most :data:`ADDITIONAL_MAX`; without additional data there is no evidence.
        encr_measurement_key: echoed.
        encr_request_nonce: echoed.
        image_hdr_tags: echoed, 208 bytes.
        runtime_data_digest: at most 64 bytes; what the evidence is bound to.
    """

    request_blob: Annotated[bytes, msgspec.Meta(min_length=1, max_length=ARCB_MAX)]
    measurement_size: Annotated[int, msgspec.Meta(ge=1, le=MEASUREMENT_MAX)]
    additional_size: Annotated[int, msgspec.Meta(ge=1, le=ADDITIONAL_MAX)]
    encr_measurement_key: bytes
    encr_request_nonce: bytes
    image_hdr_tags: Annotated[bytes, msgspec.Meta(min_length=TAGS, max_length=TAGS)]
    runtime_data_digest: Annotated[bytes, msgspec.Meta(min_length=1, max_length=USER_DATA)]


class Evidence(msgspec.Struct, frozen=True):
    """The answer; byte strings are standard base64 on the wire.

    Attributes:
        measurement: HMAC-SHA-512 by the ultravisor.
        additional_data: 32 bytes or more.
        user_data: 64 bytes.
        cuid: configuration unique id, 16 bytes.
        encr_measurement_key: from the request.
        encr_request_nonce: from the request.
        image_hdr_tags: from the request.
    """

    measurement: bytes
    additional_data: bytes
    user_data: bytes
    cuid: bytes
    encr_measurement_key: bytes
    encr_request_nonce: bytes
    image_hdr_tags: bytes


def parse_request(document: bytes) -> Request:
    """The report data of this TEE.

    Raises:
        AgentError: INVALID_REQUEST; the detail names the member, not its content.
    """
    try:
        return msgspec.json.decode(document, type=Request)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # msgspec names a path and a type, and no value.
        raise AgentError(
            ErrorCode.INVALID_REQUEST, f"se: the attestation request is malformed: {error}"
        ) from None


def collect(
    settings: Settings, report_data: bytes, deadline: Deadline, *, ioctl: Ioctl = system_ioctl
) -> bytes:
    """Evidence for a broker's attestation request (a JSON document).

    Raises:
        AgentError: INVALID_REQUEST, QUOTE_PATH_MISSING, DEVICE_FORBIDDEN, EVIDENCE_FAILED naming the
            ultravisor's return codes.
    """
    del deadline  # the process is killed
    request = parse_request(report_data)
    user_data = pad(request.runtime_data_digest, USER_DATA)
    blob = Buffer(request.request_blob)
    measurement, additional = Buffer(size=request.measurement_size), Buffer(size=request.additional_size)
    attest = Buffer(
        _ATTEST.pack(
            blob.address,
            measurement.address,
            additional.address,
            user_data,
            b"",
            len(request.request_blob),
            request.measurement_size,
            request.additional_size,
            USER_DATA,
            0,
        )
    )
    control = bytearray(_CONTROL.pack(0, 0, 0, attest.address, _ATTEST.size))
    with Device(settings.sysroot, DEVICE, "se", ioctl=ioctl) as device:
        device.ask(ATTEST, control, "attestation")
    _, code, reason, _, _ = _CONTROL.unpack(control)
    if code != _EXECUTED:
        raise AgentError(
            ErrorCode.EVIDENCE_FAILED, f"se: the ultravisor answers {code:#06x}, reason {reason:#06x}"
        )
    answer = _ATTEST.unpack(attest.content[: _ATTEST.size])
    size = min(answer[7], request.additional_size)
    if not size:
        raise AgentError(ErrorCode.EVIDENCE_FAILED, "se: the ultravisor gave no additional data")
    return msgspec.json.encode(
        Evidence(
            measurement.content[: request.measurement_size],
            additional.content[:size],
            user_data,
            answer[4],
            request.encr_measurement_key,
            request.encr_request_nonce,
            request.image_hdr_tags,
        )
    )
