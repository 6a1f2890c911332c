"""Resource URIs, ``kbs:///<repository>/<type>/<tag>`` and ``kbs+<plugin>:///<path>[?<query>]``.

Source: kbs_protocol.md 7.1 (grammar, error texts) and 7.2 (what the broker's resource plugin takes).
Stricter than upstream on purpose: nothing is normalised, so what was checked is what is sent.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

import msgspec

from agent.config import limits
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Sequence

RESOURCE_PLUGIN: Final = "resource"

_BAD_SCHEME: Final = "scheme must be kbs or kbs+<plugin>"
_NO_PLUGIN: Final = "scheme kbs+ requires a plugin name, e.g. kbs+pkcs11"
_INVALID: Final = "invalid kbs resource uri, should be kbs://<addr-of-kbs>/<repo>/<type>/<tag>"

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_PLUGIN: Final = re.compile(r"[a-z0-9+.-]+")
_AUTHORITY: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%\[\]-]*")
_SEGMENT: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+")
_QUERY: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*")
_RESOURCE_NAME: Final = re.compile(r"[A-Za-z0-9_-]+[A-Za-z0-9_.-]*")


class ResourceUri(msgspec.Struct, frozen=True):
    """One resource at the configured broker; an instance is always valid.

    Attributes:
        plugin: broker plugin, lower case; ``resource`` for ``kbs://``.
        segments: path segments as written, still percent-encoded. ``resource`` has exactly three.
        query: raw query without ``?``, still percent-encoded.

    Raises:
        AgentError: INVALID_URI, when built from parts that break the grammar.
    """

    plugin: str
    segments: tuple[str, ...]
    query: str = ""

    def __post_init__(self) -> None:
        _check_plugin(self.plugin)
        if self.plugin == RESOURCE_PLUGIN:
            _check_resource_path(self.segments)
        else:
            _check_plugin_path(self.segments)
        if not _QUERY.fullmatch(self.query):
            raise _invalid("the query holds a character that must be percent-encoded")
        if len(str(self)) > limits.URI_MAX:
            raise _invalid("it is too long")

    @property
    def path(self) -> str:
        """Segments joined with ``/``, e.g. ``default/key/1``; still percent-encoded."""
        return "/".join(self.segments)

    @property
    def names(self) -> tuple[str, ...]:
        """Segments with percent escapes decoded once: what the broker sees. Compare these, not spellings."""
        return tuple(unquote_to_bytes(segment).decode() for segment in self.segments)

    @property
    def request_target(self) -> str:
        """What follows ``/kbs/v0/`` in the request line; to be sent as it is, without quoting again."""
        return f"{self.plugin}/{self.path}{self._suffix}"

    @property
    def _suffix(self) -> str:
        return f"?{self.query}" if self.query else ""

    def __str__(self) -> str:
        scheme = "kbs" if self.plugin == RESOURCE_PLUGIN else f"kbs+{self.plugin}"
        return f"{scheme}:///{self.path}{self._suffix}"


def parse_uri(text: str) -> ResourceUri:
    """Read a resource URI.

    The scheme is case-insensitive and ``kbs+resource`` is ``kbs``. The authority is ignored: requests go
    to the configured broker only. Fragments are refused.

    Args:
        text: at most ``limits.URI_MAX`` characters.

    Raises:
        AgentError: INVALID_URI; the detail never repeats the text.
    """
    # T-KBS-21: bounded before any pattern runs over it.
    if len(text) > limits.URI_MAX:
        raise _invalid("it is too long")
    scheme, separator, rest = text.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        raise _invalid("it does not start with a scheme and ://")
    plugin = _plugin_of(scheme.lower())
    if "#" in rest:
        raise _invalid("it has a fragment")
    hierarchy, _, query = rest.partition("?")
    authority, slash, path = hierarchy.partition("/")
    # T-KBS-22: the authority is never used, so no caller can choose who is asked.
    if not slash or not _AUTHORITY.fullmatch(authority):
        raise _invalid("it has no path, or an authority that is none")
    return ResourceUri(plugin, tuple(path.split("/")), query)


def _plugin_of(scheme: str) -> str:
    if scheme == "kbs":
        return RESOURCE_PLUGIN
    if not scheme.startswith("kbs+"):
        raise AgentError(ErrorCode.INVALID_URI, _BAD_SCHEME)
    plugin = scheme.removeprefix("kbs+")
    if not plugin:
        raise AgentError(ErrorCode.INVALID_URI, _NO_PLUGIN)
    return plugin


def _check_plugin(plugin: str) -> None:
    # T-KBS-23: the plugin is the first path segment of the request, so it must not climb either.
    if not _PLUGIN.fullmatch(plugin) or not plugin.strip("."):
        raise AgentError(ErrorCode.INVALID_URI, _BAD_SCHEME)


def _check_resource_path(segments: Sequence[str]) -> None:
    # T-KBS-24: whitelist of the broker's own rule after decoding once; no dot segment, slash, backslash,
    # control character or second escape passes it (user_pains.md SR-14).
    if len(segments) != 3 or not all(_RESOURCE_NAME.fullmatch(_decoded(segment)) for segment in segments):
        raise _invalid("three parts of letters, digits, '_', '-' and '.' are needed")


def _check_plugin_path(segments: Sequence[str]) -> None:
    # T-KBS-25: other plugins define their own names, so this list is of what can leave the plugin.
    for segment in segments:
        name = _decoded(segment)
        if name in {".", ".."} or "/" in name or "\\" in name:
            raise _invalid("a path segment leaves its place")
        if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in name):
            raise _invalid("a path segment holds a control character")
    if not segments:
        raise _invalid("it has no path")


def _decoded(segment: str) -> str:
    if not _SEGMENT.fullmatch(segment):
        raise _invalid("a path segment is empty or holds a character that must be percent-encoded")
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise _invalid("a path segment is not UTF-8") from None


def _invalid(reason: str) -> AgentError:
    return AgentError(ErrorCode.INVALID_URI, f"{_INVALID} ({reason})")
