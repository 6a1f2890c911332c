"""Kinds of values about TEEs and devices: names, levels, handles, addresses."""

from __future__ import annotations

import re
from typing import Final

from agent.config import urls
from agent.config.kinds import Kind, Refused, read_text, read_texts, wrong_type
from agent.config.model import IMDS_URL

TEES: Final = (
    *("tdx", "sgx", "az-tdx-vtpm", "az-snp-vtpm", "snp", "csv", "cca", "se", "tpm", "sample"),
    *("nvidia", "hygondcu", "sampledevice"),
)
"""Wire strings of kbs-types 0.18 that an attester exists for (attesters.md 1.4)."""

_EXPECTED: Final = re.compile(r"([a-z0-9-]{1,32})(?::([1-9][0-9]{0,2}))?")
_VSOCK: Final = re.compile(r"([0-9]{1,10}):([0-9]{1,10})")
_U32: Final = 0xFFFFFFFF
_VMPL_MAX: Final = 3


def expected_device(text: str) -> tuple[str, int | None]:
    """``nvidia`` or ``nvidia:8`` as wire string and count; None is any count from 1.

    Raises:
        Refused: it is neither.
    """
    match = _EXPECTED.fullmatch(text)
    if match is None or match[1] not in TEES:
        raise Refused("has an entry that is not a device, or a device and a count", 'such as "nvidia:8"')
    return match[1], int(match[2]) if match[2] else None


def _read_expected(value: object) -> tuple[str, ...]:
    texts = read_texts(value)
    names = [expected_device(text)[0] for text in texts]
    if len(set(names)) != len(names):
        raise Refused("names a device twice")
    return texts


def vsock(text: str) -> tuple[int, int]:
    """``CID:PORT`` as two numbers.

    Raises:
        Refused: it is not.
    """
    match = _VSOCK.fullmatch(text)
    if match is None or int(match[1]) > _U32 or int(match[2]) > _U32:
        raise Refused("is not <CID>:<port>", 'the host is CID 2, so for example "2:4050"')
    return int(match[1]), int(match[2])


def _read_vsock(value: object) -> str:
    text = read_text(value)
    if text:
        vsock(text)
    return text


def _read_level(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type("an integer", value)
    if not 0 <= value <= _VMPL_MAX:
        raise Refused(f"is not a privilege level; there are 0 to {_VMPL_MAX}")
    return value


def _read_handle(value: object) -> int:
    text = read_text(value)
    try:
        handle = int(text, 16)
    except ValueError:
        raise Refused("is not hexadecimal", 'such as "0x81010002"') from None
    if not 0x81000000 <= handle <= 0x81FFFFFF:
        raise Refused("is not a persistent handle; those are 0x81000000 to 0x81ffffff")
    return handle


def _read_service(value: object) -> str:
    text = read_text(value)
    wrong = urls.plain_problem(text)
    if wrong:
        raise Refused(wrong, f"the default is {IMDS_URL}")
    return text.rstrip("/")


SERVICE: Final = Kind("string, http URL", _read_service)
EXPECTED: Final = Kind("array of device names", _read_expected)
VSOCK: Final = Kind("CID and port", _read_vsock)
VMPL: Final = Kind("privilege level", _read_level)
HANDLE: Final = Kind("hexadecimal handle", _read_handle)
