"""Patterns over resource names, such as ``default/*/*``.

A pattern stands for whole paths and has as many segments as the paths it matches: ``*`` is any run of
characters inside its segment, and every other character is itself. Names are compared after their percent
escapes are decoded; the query of a resource plays no part.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import limits

if TYPE_CHECKING:
    from collections.abc import Sequence

RESOURCE: Final = "resource"
"""The plugin of ``kbs://`` URIs, and of patterns that name none."""

_FORM: Final = re.compile(r"(?:kbs(?:\+(?P<plugin>[a-z0-9+.-]+))?:///)?(?P<path>[^\s/].*)")
_RESOURCE_SEGMENT: Final = re.compile(r"[A-Za-z0-9_.*-]+")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+")


class Pattern(msgspec.Struct, frozen=True):
    """One parsed pattern.

    Attributes:
        plugin: broker plugin, ``resource`` for ``kbs://``.
        segments: per path segment the texts between its stars.
    """

    plugin: str
    segments: tuple[tuple[str, ...], ...]

    def matches(self, plugin: str, names: Sequence[str]) -> bool:
        """Whether a resource is meant.

        Args:
            plugin: of the resource.
            names: its path segments, decoded.
        """
        return (
            plugin == self.plugin
            and len(names) == len(self.segments)
            and all(_fits(parts, name) for parts, name in zip(self.segments, names, strict=True))
        )


def parse(text: str) -> Pattern:
    """Read a pattern: ``<repository>/<type>/<tag>``, or ``kbs+<plugin>:///<path>`` for another plugin.

    Raises:
        ValueError: what is wrong; the text is not repeated.
    """
    # T-CACHE-1: bounded; it is compared with every name that callers ask for.
    if len(text) > limits.CACHE_PATTERN:
        raise ValueError(f"is longer than {limits.CACHE_PATTERN} characters")
    form = _FORM.fullmatch(text)
    if form is None:
        raise ValueError("is not a path such as default/*/*")
    plugin, segments = form["plugin"] or RESOURCE, form["path"].split("/")
    if plugin == RESOURCE and len(segments) != 3:
        raise ValueError(f"has {len(segments)} segments; resources have three")
    allowed = _RESOURCE_SEGMENT if plugin == RESOURCE else _SEGMENT
    for segment in segments:
        if not allowed.fullmatch(segment):
            raise ValueError("has a segment that is empty or has a character no name can have")
        if "**" in segment:
            raise ValueError("has '**'; one '*' matches within a segment, and none matches more")
    return Pattern(plugin, tuple(tuple(segment.split("*")) for segment in segments))


def _fits(parts: tuple[str, ...], name: str) -> bool:
    """Greedy from the left, so it takes linear time, unlike a regular expression with many stars."""
    first, *rest = parts
    if not rest:
        return name == first
    *middle, last = rest
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    position, end = len(first), len(name) - len(last)
    for part in middle:
        found = name.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True
