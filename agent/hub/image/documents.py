"""Indexes and manifests of OCI images, changed without losing what this program does not know.

A document is written the way it was found (spacing, escapes), so that an image that was encrypted and
decrypted again has the digest it began with.
"""

from __future__ import annotations

import hashlib
import re
from itertools import product
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import limits
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Collection

DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
INDEXES: Final = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)
MANIFESTS: Final = frozenset(
    {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    }
)
REF_NAME: Final = "org.opencontainers.image.ref.name"

_INDENTS: Final = (-1, 2, 3, 4, 0)
_GO_ESCAPES: Final = ((b"<", b"\\u003c"), (b">", b"\\u003e"), (b"&", b"\\u0026"))

_Json = dict[str, object]


class Descriptor(msgspec.Struct, frozen=True):
    """What points at a blob (OCI image specification, "Content Descriptors").

    Attributes:
        media_type: as written.
        digest: ``sha256:<hex>``; nothing else gets here.
        size: bytes.
        annotations: names and values in their order.
        platform: ``os/architecture[/variant]``, empty when it names none.
    """

    media_type: str
    digest: str
    size: int
    annotations: tuple[tuple[str, str], ...] = ()
    platform: str = ""

    def annotation(self, name: str) -> str | None:
        """The value of one annotation."""
        return dict(self.annotations).get(name)


class _Platform(msgspec.Struct, frozen=True):
    os: str = ""
    architecture: str = ""
    variant: str = ""


class _Descriptor(msgspec.Struct, frozen=True):
    digest: str
    size: int
    mediaType: str = ""  # noqa: N815  # wire name
    annotations: dict[str, str] | None = None
    platform: _Platform | None = None


class _Style(msgspec.Struct, frozen=True):
    indent: int = -1
    escapes: bool = False
    newline: bool = False

    def write(self, value: _Json) -> bytes:
        text = msgspec.json.format(msgspec.json.encode(value), indent=self.indent)
        if self.escapes:
            # These three occur in strings only, so the text means the same.
            for plain, escaped in _GO_ESCAPES:
                text = text.replace(plain, escaped)
        return text + b"\n" if self.newline else text


class Document(msgspec.Struct):
    """One index or manifest.

    Attributes:
        name: for errors.
        value: its members. Unknown ones stay.
        style: how it was written.
    """

    name: str
    value: _Json
    style: _Style = msgspec.field(default_factory=_Style)

    @classmethod
    def read(cls, data: bytes, name: str) -> Document:
        """Parse an index or a manifest.

        Raises:
            AgentError: IMAGE_LAYOUT_INVALID.
        """
        # T-IMGKEY-14: bounded before it is parsed; the parser bounds the depth.
        if len(data) > limits.IMAGE_DOCUMENT_MAX:
            raise _invalid(f"{name} is larger than {limits.IMAGE_DOCUMENT_MAX} bytes")
        try:
            data.decode("utf-8")
            value = msgspec.json.decode(data, type=_Json)
        except UnicodeDecodeError:
            raise _invalid(f"{name} is not UTF-8") from None
        except RecursionError:
            raise _invalid(f"{name} is nested too deeply") from None
        except msgspec.MsgspecError as error:
            raise _invalid(f"{name}: {error}") from None
        styles = (_Style(*choice) for choice in product(_INDENTS, (False, True), (False, True)))
        return cls(name, value, next((style for style in styles if style.write(value) == data), _Style()))

    def write(self) -> bytes:
        """The document as JSON, in the style it came in."""
        return self.style.write(self.value)

    def descriptors(self, member: str, most: int) -> tuple[Descriptor, ...]:
        """The descriptors in a list member.

        Raises:
            AgentError: IMAGE_LAYOUT_INVALID, also when there are more than ``most``.
        """
        if len(self._list(member)) > most:
            raise _invalid(f"{self.name}: more than {most} entries in {member}")
        return tuple(self._read(item, f"{member}[{n}]") for n, item in enumerate(self._list(member)))

    def descriptor(self, member: str) -> Descriptor:
        """The descriptor in a member.

        Raises:
            AgentError: IMAGE_LAYOUT_INVALID.
        """
        return self._read(self.value.get(member), member)

    def keep(self, member: str, kept: Collection[Descriptor]) -> None:
        """Leave only some entries of a list of descriptors."""
        entries = self._list(member)
        entries[:] = [item for item in entries if self._read(item, member) in kept]

    def replace(self, member: str, changes: dict[Descriptor, Descriptor]) -> None:
        """Point a list's descriptors at other blobs; entries that are no key of ``changes`` stay."""
        for item in self._list(member):
            new = changes.get(self._read(item, member))
            if new is None or not isinstance(item, dict):
                continue
            item.update(digest=new.digest, size=new.size)
            if "mediaType" in item or new.media_type:
                item["mediaType"] = new.media_type
            if new.annotations:
                item["annotations"] = dict(new.annotations)
            else:
                item.pop("annotations", None)
            # T-IMGKEY-15: a copy of the old content inside the descriptor would be the plaintext.
            item.pop("data", None)

    def _list(self, member: str) -> list[object]:
        found = self.value.get(member)
        if not isinstance(found, list):
            raise _invalid(f"{self.name}: {member} is not a list")
        return found

    def _read(self, item: object, where: str) -> Descriptor:
        try:
            found = msgspec.convert(item, _Descriptor)
        except msgspec.ValidationError:
            raise _invalid(f"{self.name}: {where} is not a descriptor") from None
        # T-IMGKEY-16: a digest becomes a file name: 64 hexadecimal digits lead nowhere else.
        if not DIGEST.fullmatch(found.digest) or found.size < 0:
            raise _invalid(f"{self.name}: {where} has no sha256 digest or no size")
        platform = found.platform or _Platform()
        parts = (platform.os, platform.architecture, platform.variant)
        return Descriptor(
            found.mediaType,
            found.digest,
            found.size,
            tuple((found.annotations or {}).items()),
            "/".join(part for part in parts if part),
        )


def sha256(data: bytes) -> str:
    """``sha256:<hex>``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _invalid(reason: str) -> AgentError:
    return AgentError(ErrorCode.IMAGE_LAYOUT_INVALID, reason)
