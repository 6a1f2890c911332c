"""Resources in memory, and plugins that hold fixed answers."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from agent.devkit.kbs.answers import plugin_failed, plugin_unknown
from agent.errors import AgentError, ErrorCode
from agent.secret import without

RESOURCE: Final = "resource"
_SEGMENT: Final = r"[a-zA-Z0-9_-][a-zA-Z0-9_.-]*"
_PATH: Final = re.compile(rf"{_SEGMENT}/{_SEGMENT}/{_SEGMENT}")


def legal(path: str) -> bool:
    """Whether Trustee's resource plugin takes this path (kbs_protocol.md 7.2)."""
    return _PATH.fullmatch(path) is not None


class Plugin(msgspec.Struct, frozen=True):
    """Answers by path.

    Attributes:
        encrypted: answers are JWEs; otherwise raw bytes of type ``text/xml``.
        items: path to plaintext.
    """

    encrypted: bool
    items: dict[str, bytes] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        return without(self, "items")


class Repository:
    """Every plugin of one broker; ``resource`` is always there."""

    def __init__(self) -> None:
        self._plugins: dict[str, Plugin] = {RESOURCE: Plugin(encrypted=True)}

    def add_plugin(self, name: str, *, encrypted: bool) -> None:
        """Offer another plugin; an existing one keeps what it has."""
        self._plugins.setdefault(name, Plugin(encrypted=encrypted))

    def put(self, path: str, data: bytes, plugin: str = RESOURCE) -> None:
        """Store, from within the process.

        Raises:
            AgentError: INVALID_URI, no such plugin or a path the resource plugin refuses.
        """
        if plugin not in self._plugins or (plugin == RESOURCE and not legal(path)):
            raise AgentError(ErrorCode.INVALID_URI, "resources are <repository>/<type>/<tag>")
        self._plugins[plugin].items[path] = bytes(data)

    def plugin(self, name: str) -> Plugin:
        """A plugin by name.

        Raises:
            ProblemError: PluginNotFound.
        """
        try:
            return self._plugins[name]
        except KeyError:
            raise plugin_unknown(name) from None

    def read(self, name: str, path: str) -> bytes:
        """Plaintext.

        Raises:
            ProblemError: PluginNotFound; PluginInternalError for a missing or illegal path.
        """
        items = self.plugin(name).items
        if path not in items:
            raise plugin_failed("no such resource" if name != RESOURCE or legal(path) else "illegal path")
        return items[path]

    def write(self, path: str, data: bytes) -> None:
        """Store, for an administrator.

        Raises:
            ProblemError: PluginInternalError, illegal path.
        """
        if not legal(path):
            raise plugin_failed("illegal path")
        self._plugins[RESOURCE].items[path] = data

    def delete(self, path: str) -> None:
        """Remove, for an administrator.

        Raises:
            ProblemError: PluginInternalError, missing.
        """
        if self._plugins[RESOURCE].items.pop(path, None) is None:
            raise plugin_failed("no such resource")
