"""Azure's report in NV index 0x01400001 of the vTPM (attesters.md 5.3). Little-endian."""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import re
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import limits
from agent.tee.evidence.reader import Reader, malformed
from agent.tee.evidence.tpm import rsa_key
from agent.tee.evidence.verdict import Check

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

SIGNATURE: Final = 0x414C4348
HARDWARE_AT: Final = 32
HARDWARE_SIZE: Final = 1184
DATA_AT: Final = HARDWARE_AT + HARDWARE_SIZE
DATA_HEADER: Final = 20
TDREPORT_SIZE: Final = 1024
USER_DATA_SIZE: Final = 64

_WHAT: Final = "HCL report"
_AK: Final = "HCLAkPub"
_JWK_NUMBER: Final = re.compile(r"[A-Za-z0-9_-]{1,1400}")
_HASHES: Final = {1: "sha256", 2: "sha384", 3: "sha512"}


class ReportType(enum.IntEnum):
    """What kind of hardware report is inside."""

    VBS = 1
    SNP = 2
    TVM = 3
    TDX = 4


_REPORT_DATA_AT: Final = {ReportType.SNP: 0x50, ReportType.TDX: 128}


class _Key(msgspec.Struct):
    kid: str = ""
    kty: str = ""
    n: str = ""
    e: str = ""


class _Variable(msgspec.Struct, rename="kebab"):
    keys: list[_Key]
    user_data: str | None = None


class HclReport(msgspec.Struct, frozen=True):
    """The report, taken apart.

    Attributes:
        version: of the header, 1 or 2.
        report_type: of the hardware report.
        hardware: SNP report (1184 bytes) or TDREPORT (1024 bytes).
        hash_type: hashlib's name of the hash that binds ``variable_data`` to the hardware report.
        variable_data: JSON: keys, configuration and user data.
        ak: key of the vTPM's quotes.
        user_data: 64 bytes; None when the report is too old to carry any.
    """

    version: int
    report_type: ReportType
    hardware: bytes
    hash_type: str
    variable_data: bytes
    ak: RSAPublicKey
    user_data: bytes | None

    @property
    def report_data(self) -> bytes:
        """The hardware report's 64 bytes of report data."""
        at = _REPORT_DATA_AT[self.report_type]
        return self.hardware[at : at + 64]

    @property
    def variable_hash(self) -> bytes:
        """What the hardware report's report data begins with."""
        return hashlib.new(self.hash_type, self.variable_data).digest()


def parse_header(data: bytes) -> tuple[ReportType, str, int]:
    """Report type, hash and size of the variable data, from the 20 bytes before it (offset 1216).

    Raises:
        AgentError: EVIDENCE_MALFORMED, also for a type or hash that does not exist.
    """
    reader = Reader(data, _WHAT)
    size = reader.u32("data size")
    reader.skip(4, "data version")
    kind, algorithm, variable = (
        reader.u32("report type"),
        reader.u32("hash type"),
        reader.u32("variable size"),
    )
    if size != DATA_HEADER + variable:
        raise reader.wrong(f"data of {size} bytes, {variable} of them variable")
    if kind not in set(ReportType) or algorithm not in _HASHES:
        raise reader.wrong(f"report type {kind}, hash type {algorithm}")
    return ReportType(kind), _HASHES[algorithm], variable


def parse_hcl(data: bytes) -> HclReport:
    """Read a report as it lies in the vTPM; what follows the variable data does not count.

    Raises:
        AgentError: EVIDENCE_MALFORMED, also for a report that is neither SNP's nor TDX's.
    """
    # T-TEE-29: bounded before it is parsed; the JSON inside as well.
    if len(data) > limits.HCL_MAX:
        raise malformed(_WHAT, f"{len(data)} bytes")
    reader = Reader(data, _WHAT)
    magic, version, total = reader.u32("signature"), reader.u32("version"), reader.u32("report size")
    if magic != SIGNATURE or version not in {1, 2}:
        raise reader.wrong("no HCLA signature of version 1 or 2")
    reader.skip(HARDWARE_AT - 12, "header")
    hardware = reader.take(HARDWARE_SIZE, "hardware report")
    kind, algorithm, size = parse_header(reader.take(DATA_HEADER, "data header"))
    if kind not in _REPORT_DATA_AT:
        raise reader.wrong(f"report type {kind.name} is no hardware's")
    if total != DATA_AT + DATA_HEADER + size:
        raise reader.wrong(f"report size {total}, variable data of {size} bytes")
    variable = reader.take(size, "variable data")
    parsed = _variable(variable)
    return HclReport(
        version=version,
        report_type=kind,
        hardware=hardware if kind is ReportType.SNP else hardware[:TDREPORT_SIZE],
        hash_type=algorithm,
        variable_data=variable,
        ak=_ak(parsed.keys),
        user_data=_user_data(parsed.user_data),
    )


def _variable(data: bytes) -> _Variable:
    try:
        return msgspec.json.decode(data, type=_Variable)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise malformed(_WHAT, "its variable data is not the JSON it should be") from None


def _ak(keys: list[_Key]) -> RSAPublicKey:
    found = [key for key in keys if key.kid == _AK]
    if len(found) != 1 or found[0].kty != "RSA":
        raise malformed(_WHAT, f"{len(found)} keys are called {_AK}")
    return rsa_key(_number(found[0].n), _number(found[0].e), _WHAT)


def _number(text: str) -> int:
    if not _JWK_NUMBER.fullmatch(text) or len(text) % 4 == 1:
        raise malformed(_WHAT, f"a number of {_AK} is not base64url")
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


def _user_data(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        value = binascii.unhexlify(text)
    except ValueError:
        value = b""
    if len(value) != USER_DATA_SIZE:
        raise malformed(_WHAT, "its user data is not 128 hexadecimal digits")
    return value


def variable_data_check(report: HclReport, report_data: bytes, where: str) -> Check:
    """Whether a hardware report vouches for the variable data, and so for key and user data.

    Args:
        report: whose variable data.
        report_data: 64 bytes of the SNP report, TDREPORT or TD quote.
        where: its name for people.
    """
    digest = report.variable_hash
    # T-TEE-29: without this the attestation key and the user data are anybody's.
    return Check(f"variable data in {where}", report_data[: len(digest)] == digest, digest.hex())


def user_data_check(report: HclReport, expected: bytes | None) -> Check:
    """Whether the user data is the report data, with zeros behind it.

    Args:
        report: the report.
        expected: up to 64 bytes; None: it is only shown.
    """
    name = "user data"
    if report.user_data is None:
        return Check(name, passed=False, detail="the report carries none")
    seen = report.user_data.hex()
    if expected is None:
        return Check(name, passed=None, detail=seen)
    if len(expected) > USER_DATA_SIZE:
        return Check(name, passed=False, detail=f"{len(expected)} bytes do not fit")
    holds = report.user_data == expected.ljust(USER_DATA_SIZE, b"\0")
    return Check(name, holds, seen if holds else f"{seen}, not {expected.hex()}")
