"""Writes Azure's report as the paravisor does (attesters.md 5.3)."""

from __future__ import annotations

import base64
import hashlib
import json
import struct

from agent.tee.evidence.hcl import (
    DATA_AT,
    DATA_HEADER,
    HARDWARE_SIZE,
    SIGNATURE,
    USER_DATA_SIZE,
    ReportType,
)


def variable_data(ak: tuple[int, int], user_data: bytes | None) -> bytes:
    """The JSON part.

    Args:
        ak: modulus and exponent of the vTPM's attestation key.
        user_data: up to 64 bytes; None: leave the member out, as the oldest reports do.
    """
    document: dict[str, object] = {
        "keys": [
            _jwk("HCLAkPub", "sign", *ak),
            _jwk("HCLEkPub", "encrypt", (1 << 2047) + 1, 65537),
        ],
        "vm-configuration": {
            "console-enabled": True,
            "secure-boot": True,
            "tpm-enabled": True,
            "vmUniqueId": "00000000-0000-4000-8000-000000000000",
        },
    }
    if user_data is not None:
        document["user-data"] = user_data.ljust(USER_DATA_SIZE, b"\0").hex().upper()
    return json.dumps(document, separators=(",", ":")).encode()


def report_data(variable: bytes) -> bytes:
    """What the hardware report's report data has to be: SHA-256 of the variable data, 64 bytes with zeros."""
    return hashlib.sha256(variable).digest().ljust(64, b"\0")


def unsigned_hardware(kind: ReportType, data: bytes) -> bytes:
    """A hardware report that holds report data and nothing else."""
    at = 0x50 if kind is ReportType.SNP else 128
    return bytes(at) + data + bytes(HARDWARE_SIZE - at - len(data))


def build(kind: ReportType, hardware: bytes, variable: bytes, *, version: int = 2) -> bytes:
    """The whole report, without the zeros behind it."""
    size = DATA_AT + DATA_HEADER + len(variable)
    header = struct.pack("<8I", SIGNATURE, version, size, 2, 0, 0, 0, 0)
    data = struct.pack("<5I", DATA_HEADER + len(variable), 1, kind, 1, len(variable))
    return header + hardware.ljust(HARDWARE_SIZE, b"\0") + data + variable


def _jwk(kid: str, use: str, modulus: int, exponent: int) -> dict[str, object]:
    return {"kid": kid, "key_ops": [use], "kty": "RSA", "e": _number(exponent), "n": _number(modulus)}


def _number(value: int) -> str:
    data = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
