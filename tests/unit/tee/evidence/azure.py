"""Evidence of vTPMs made here, with a key of its own."""

from __future__ import annotations

import hashlib
import struct
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from agent.devkit import hcl
from agent.errors import AgentError, ErrorCode
from agent.tee.evidence.hcl import ReportType

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL = b"\xff\xff\xff"
PCRS = tuple(bytes([number]) * 32 for number in range(24))
NONCE = b"n" * 48


@cache
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def numbers() -> tuple[int, int]:
    public = key().public_key().public_numbers()
    return public.n, public.e


def sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def attest(
    extra: bytes = NONCE,
    pcrs: tuple[bytes, ...] = PCRS,
    *,
    select: bytes = ALL,
    bank: int = 0x000B,
    kind: int = 0x8018,
    magic: int = 0xFF544347,
) -> bytes:
    """TPMS_ATTEST."""
    return (
        struct.pack(">IH", magic, kind)
        + sized(b"\x00\x0b" + bytes(32))
        + sized(extra)
        + struct.pack(">QIIBQ", 12345, 1, 2, 1, 0x20191023)
        + struct.pack(">IHB", 1, bank, len(select))
        + select
        + sized(hashlib.sha256(b"".join(pcrs)).digest())
    )


def sign(message: bytes) -> bytes:
    return key().sign(message, padding.PKCS1v15(), SHA256())


def report(kind: ReportType = ReportType.SNP, user_data: bytes | None = NONCE) -> bytes:
    """An unsigned HCL report, as long as its NV index."""
    variable = hcl.variable_data(numbers(), user_data)
    hardware = hcl.unsigned_hardware(kind, hcl.report_data(variable))
    return hcl.build(kind, hardware, variable).ljust(2600, b"\0")


@contextmanager
def parsed_or_malformed() -> Iterator[None]:
    """The body may raise EVIDENCE_MALFORMED and nothing else."""
    try:
        yield
    except AgentError as error:
        if error.code is not ErrorCode.EVIDENCE_MALFORMED:
            raise
