"""Attestation documents of AWS Nitro through /dev/nsm (Linux uapi/linux/nsm.h).

No Trustee verifier takes them, and there is no wire string for them in kbs-types: they are for verifiers of
AWS (KMS, or one's own), and never part of a handshake with a broker.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from agent.errors import AgentError, ErrorCode
from agent.tee.chardev import Buffer, Device, Ioctl, system_ioctl
from agent.tee.devices import shown
from agent.tee.evidence import cbor

if TYPE_CHECKING:
    from agent.tee.evidence.cbor import Value

RAW: Final = 0xC0200A00
"""``NSM_IOCTL_RAW``: ``_IOWR(0x0a, 0, struct nsm_raw)``; two (address, length) pairs, 32 bytes."""

DEVICE: Final = "dev/nsm"
RESPONSE_MAX: Final = 0x3000
DATA_MAX: Final = 512
"""Bytes of user data, and of a nonce."""

KEY_MAX: Final = 1024
"""Bytes of a public key (DER) that KMS encrypts to."""

_IOVECS: Final = struct.Struct("=QQQQ")


def build_request(user_data: bytes | None, nonce: bytes | None, public_key: bytes | None) -> bytes:
    """The CBOR of ``{"Attestation": {...}}`` (RFC 8949); what is None is null.

    Raises:
        AgentError: INVALID_REQUEST, longer than the module takes.
    """
    body = b""
    for name, value, most in (
        ("user_data", user_data, DATA_MAX),
        ("nonce", nonce, DATA_MAX),
        ("public_key", public_key, KEY_MAX),
    ):
        if value is not None and len(value) > most:
            raise AgentError(ErrorCode.INVALID_REQUEST, f"nitro: {name} of {len(value)} bytes; {most} fit")
        body += _text(name) + (b"\xf6" if value is None else _head(2, len(value)) + value)
    return _head(5, 1) + _text("Attestation") + _head(5, 3) + body


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    if number < 0x100:
        return bytes([major << 5 | 24, number])
    return bytes([major << 5 | 25]) + number.to_bytes(2, "big")


def _text(value: str) -> bytes:
    data = value.encode()
    return _head(3, len(data)) + data


def parse_response(data: bytes) -> bytes:
    """The attestation document (COSE_Sign1, tagged or not) in an answer.

    Raises:
        AgentError: EVIDENCE_MALFORMED, EVIDENCE_FAILED (the module's own error).
    """
    answer: Value = cbor.decode(data, "NSM answer")
    if isinstance(answer, dict):
        error, body = answer.get("Error"), answer.get("Attestation")
        document = body.get("document") if isinstance(body, dict) else None
        if isinstance(error, str):
            raise AgentError(ErrorCode.EVIDENCE_FAILED, f"nitro: the module answers {shown(error, 64)}")
        if isinstance(document, bytes) and document:
            return document
    raise AgentError(ErrorCode.EVIDENCE_MALFORMED, "nitro: the module's answer has no document")


def attestation_document(
    sysroot: str,
    *,
    user_data: bytes | None = None,
    nonce: bytes | None = None,
    public_key: bytes | None = None,
    ioctl: Ioctl = system_ioctl,
) -> bytes:
    """An attestation document as the Nitro security module signs it.

    Args:
        sysroot: prefix of the device.
        user_data: at most 512 bytes.
        nonce: at most 512 bytes.
        public_key: at most 1024 bytes of DER.
        ioctl: injected in tests.

    Raises:
        AgentError: QUOTE_PATH_MISSING, DEVICE_FORBIDDEN, INVALID_REQUEST, EVIDENCE_FAILED,
            EVIDENCE_MALFORMED.
    """
    request = build_request(user_data, nonce, public_key)
    asked, answered = Buffer(request), Buffer(size=RESPONSE_MAX)
    argument = bytearray(_IOVECS.pack(asked.address, len(request), answered.address, RESPONSE_MAX))
    with Device(sysroot, DEVICE, "nitro", ioctl=ioctl) as device:
        device.ask(RAW, argument, "attestation")
    size = _IOVECS.unpack(argument)[3]
    return parse_response(answered.content[: min(size, RESPONSE_MAX)])
