"""Init-data: settings that the host hands over and the hardware's measurement confirms (attesters.md 16.1).

Parsing and digest only; comparing the digest with the hardware's register comes with each attester.
"""

from __future__ import annotations

import enum
import hashlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import limits, toml
from agent.errors import AgentError, ErrorCode
from agent.secret import without

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION: Final = "0.1.0"
"""The only version there is; what another one means is not known, so it is refused."""


class Algorithm(enum.Enum):
    """Digest algorithms, spelled as in the document. Upstream's ``sm3`` is not supported."""

    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"


class InitData(msgspec.Struct, frozen=True):
    """One init-data document.

    Attributes:
        version: ``0.1.0``.
        algorithm: of ``digest``.
        data: file name to content, e.g. ``aa.toml``, ``cdh.toml``, ``policy.rego``.
        digest: 32, 48 or 64 bytes, over the document's exact bytes.
        text: the document as received; what the broker gets.
    """

    version: str
    algorithm: Algorithm
    data: Mapping[str, str]
    digest: bytes
    text: str

    def __repr__(self) -> str:
        return without(self, "data", "text")


def parse(document: bytes) -> InitData:
    """Read an init-data document.

    Args:
        document: TOML 1.1 in UTF-8, at most ``limits.CONFIG_MAX_FILE`` bytes. No byte is changed before it is
            hashed: line ends, a byte order mark and the final newline count.

    Raises:
        AgentError: CONFIG_INVALID; the detail names the member, never its content.
    """
    # T-TEE-6: the host writes this document; it is bounded before it is parsed.
    if len(document) > limits.CONFIG_MAX_FILE:
        raise _invalid(f"larger than {limits.CONFIG_MAX_FILE} bytes")
    try:
        members = toml.loads(document)
    except toml.TomlError as error:
        # A parser's reason can quote the document; the place cannot.
        raise _invalid(f"not TOML at {error.place}" if error.place else str(error)) from None
    if members.get("version") != VERSION:
        raise _invalid(f"version must be the string {VERSION}")
    algorithm = _algorithm(members.get("algorithm"))
    return InitData(
        version=VERSION,
        algorithm=algorithm,
        data=_data(members.get("data")),
        digest=hashlib.new(algorithm.value, document).digest(),
        text=document.decode("utf-8"),
    )


def _algorithm(value: object) -> Algorithm:
    try:
        return Algorithm(value)
    except ValueError:
        raise _invalid("algorithm must be sha256, sha384 or sha512") from None


def _data(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise _invalid("there is no table [data]")
    strings = {str(name): content for name, content in value.items() if isinstance(content, str)}
    if len(strings) != len(value):
        raise _invalid("every member of [data] must be a string")
    return MappingProxyType(strings)


def _invalid(reason: str) -> AgentError:
    return AgentError(ErrorCode.CONFIG_INVALID, f"init-data: {reason}")
