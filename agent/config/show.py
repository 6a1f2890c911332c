"""The effective configuration for people and programs: values without secrets, each with its origin."""

from __future__ import annotations

import base64
import enum
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import pem, urls
from agent.config.model import Credential, Origin, Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config.model import Config

_HIDDEN: Final = frozenset({"origins", "warnings"})
_URLS: Final = ("url", "proxy", "coco_as_url")
_DEFAULT: Final = Origin(Source.DEFAULT)


class Row(msgspec.Struct, frozen=True):
    """One setting.

    Attributes:
        name: dotted field of the model.
        value: as text; certificates are fingerprints, URLs have no credentials.
        origin: kind of place, and which one in brackets.
    """

    name: str
    value: str
    origin: str


def rows(config: Config) -> list[Row]:
    """All settings in the order of the model."""
    return [
        Row(name, text(name, value), _origin(config.origins.get(name, _DEFAULT)))
        for name, value in _walk(config, "")
    ]


def _walk(part: msgspec.Struct, prefix: str) -> Iterator[tuple[str, object]]:
    for member in part.__struct_fields__:
        value: object = getattr(part, member)
        name = f"{prefix}{member}"
        if isinstance(value, msgspec.Struct):
            yield from _walk(value, f"{name}.")
        elif name not in _HIDDEN:
            yield name, value


def _origin(origin: Origin) -> str:
    return f"{origin.source.value} ({_line(origin.where)})" if origin.where else origin.source.value


def text(name: str, value: object) -> str:
    """A value as one printable line, without what could be secret.

    Args:
        name: dotted field; decides how the value is shown.
        value: from the model.
    """
    last = name.rpartition(".")[2]
    if last == "extra_roots":
        return pem.summary(str(value))
    if last in _URLS:
        # T-CONF-13: a proxy's password must not reach a terminal, a ticket or a log.
        return _line(urls.redact(str(value or "")))
    if last == "tpm_ak_handle" and isinstance(value, int):
        return f"0x{value:08x}"  # as it is written in agent.toml
    return _line(_plain(value))


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, bytes):
        return f"sha256/{base64.b64encode(value).decode('ascii')}"
    if isinstance(value, Credential):
        return f"{value.path} from {value.resource_uri.partition('?')[0]}"
    if isinstance(value, tuple):
        return ", ".join(_plain(item) for item in value)
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _line(value: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in value)
