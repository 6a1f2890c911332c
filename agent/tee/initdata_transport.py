"""Init-data on its way into the guest: made, packed, recognised in any form it travels in.

Forms: the TOML document itself; gzip of it; the value of the pod annotation :data:`ANNOTATION` (standard
base64 of the gzip); the raw disk that the host attaches (kata_integration.md 3.1).
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import json
import zlib
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.tee.base import regularize
from agent.tee.initdata import VERSION, Algorithm, parse
from agent.tee.initdata_layers import GZIP, fault, inner_fault

if TYPE_CHECKING:
    from collections.abc import Mapping

ANNOTATION: Final = "io.katacontainers.config.hypervisor.cc_init_data"
"""The pod annotation that carries it."""

_DISK_MAGIC: Final = b"initdata"
_HEAD: Final = len(_DISK_MAGIC) + 8


class Unpacked(msgspec.Struct, frozen=True):
    """A document and how it came.

    Attributes:
        form: ``TOML``, ``gzip``, ``annotation`` or ``disk image``.
        document: the TOML's exact bytes, which the digest covers.
    """

    form: str
    document: bytes


class Expected(msgspec.Struct, frozen=True):
    """What the hardware's registers hold in a guest that was started with the digest (attesters.md 16.3).

    Attributes:
        host_data: SNP HOSTDATA, 32 bytes; a longer digest is cut.
        mr_config_id: TDX MRCONFIGID, 48 bytes.
        pcr8: a vTPM's PCR 8, 32 bytes; None when the digest does not fit its SHA-256 bank.
    """

    host_data: bytes
    mr_config_id: bytes
    pcr8: bytes | None


def expected(digest: bytes) -> Expected:
    """The registers' values for an init-data digest of 32, 48 or 64 bytes."""
    pcr8 = hashlib.sha256(bytes(32) + digest).digest() if len(digest) == 32 else None
    return Expected(regularize(digest, 32), regularize(digest, 48), pcr8)


def build(data: Mapping[str, str], algorithm: Algorithm = Algorithm.SHA256) -> bytes:
    """The document for some files; equal input gives equal bytes.

    Args:
        data: file name to content, in the order wanted.
        algorithm: of the digest. A vTPM takes SHA-256 only.

    Raises:
        AgentError: CONFIG_INVALID, larger than ``limits.CONFIG_MAX_FILE``.
    """
    lines = [f'version = "{VERSION}"', f'algorithm = "{algorithm.value}"', "", "[data]"]
    lines += [f"{_basic(name)} = {_string(content)}" for name, content in data.items()]
    document = ("\n".join(lines) + "\n").encode()
    parse(document)
    return document


def annotation(document: bytes) -> str:
    """The annotation's value; equal documents give equal text."""
    return base64.b64encode(gzip.compress(document, mtime=0)).decode("ascii")


def unpack(content: bytes) -> Unpacked:
    """The document inside any of its forms.

    Args:
        content: at most ``limits.CONFIG_MAX_FILE`` bytes.

    Raises:
        AgentError: CONFIG_INVALID; it names the layer that is missing, doubled or of another kind.
    """
    if len(content) > limits.CONFIG_MAX_FILE:
        raise _invalid(f"larger than {limits.CONFIG_MAX_FILE} bytes")
    if content.startswith(_DISK_MAGIC) and len(content) >= _HEAD:
        size = int.from_bytes(content[len(_DISK_MAGIC) : _HEAD], "little")
        if size > len(content) - _HEAD:
            raise _invalid("the disk image is cut short")
        return _packed("disk image", content[_HEAD : _HEAD + size])
    if content.startswith(GZIP):
        return _packed("gzip", content)
    try:
        packed = base64.b64decode(b"".join(content.split()), validate=True)
    except (binascii.Error, ValueError):
        packed = b""
    if packed.startswith(GZIP):
        return _packed("annotation", packed)
    if wrong := fault(content):
        raise _invalid(f"not the annotation's value, base64 of gzip of the document: {wrong}")
    return Unpacked("TOML", content)


def _packed(form: str, packed: bytes) -> Unpacked:
    document = _gunzip(packed)
    if wrong := inner_fault(document):
        raise _invalid(wrong)
    return Unpacked(form, document)


def _gunzip(packed: bytes) -> bytes:
    # T-TEE-51: what a small gzip grows to is bounded while it grows.
    machine = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        document = machine.decompress(packed, limits.CONFIG_MAX_FILE + 1)
    except zlib.error:
        raise _invalid("not gzip") from None
    if len(document) > limits.CONFIG_MAX_FILE:
        raise _invalid(f"unpacks to more than {limits.CONFIG_MAX_FILE} bytes")
    if not machine.eof:
        raise _invalid("the gzip is cut short")
    return document


def _string(content: str) -> str:
    # A literal is what people can read; one that a TOML reader would change is written with escapes.
    plain = all(character in "\n\t" or character.isprintable() for character in content)
    if plain and "\n" in content and "'''" not in content and not content.endswith("'"):
        return f"'''\n{content}'''"
    return _basic(content)


def _basic(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which TOML wants escaped too, and for surrogate pairs.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _invalid(reason: str) -> AgentError:
    return AgentError(ErrorCode.CONFIG_INVALID, f"init-data: {reason}")
