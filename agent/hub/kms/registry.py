"""Backends by name. Adding one is one file, and one line here (docs/backends.md)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

import msgspec

from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import read_json
from agent.hub.kms.base import Backend, Context, Decrypter, Encrypter, Getter
from agent.hub.kms.credentials import Credentials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.clock import Clock, Deadline
    from agent.config.model import Kms
    from agent.hub.kms.http import KmsHttp
    from agent.hub.resources import Resources
    from agent.secret import Secret

BACKENDS: Final = {
    "aws": "agent.hub.kms.aws",
    "aliyun": "agent.hub.kms.aliyun",
    "ehsm": "agent.hub.kms.ehsm",
    "vault": "agent.hub.kms.vault",
    "azure": "agent.hub.kms.azure",
    "gcp": "agent.hub.kms.gcp",
}
"""Provider name, as in secrets, to the module with ``BACKEND``; loaded on first use."""

KBS: Final = "kbs"
"""The configured key broker client, ``cc_kbc`` or ``offline_fs_kbc``; it only gets."""

_OPEN: Final = 64


class Backends:
    """All of them, for one hub. Nothing is loaded, opened or asked before the first use."""

    def __init__(
        self, settings: Kms, resources: Resources, clock: Clock, *, http: KmsHttp | None = None
    ) -> None:
        """Prepare.

        Args:
            settings: where credentials are, and where they may be sent.
            resources: the configured key broker client.
            clock: for signatures with a date.
            http: the way out; injected in tests.
        """
        self._settings = settings
        self._resources = resources
        self._clock = clock
        self._http = http
        self._context: Context | None = None
        self._kbs = _ThroughKbs(resources)
        self._opened: dict[tuple[str, bytes], object] = {}

    def getter(self, provider: str, settings: Mapping[str, msgspec.Raw]) -> Getter:
        """The backend that hands out secrets of ``provider``.

        Args:
            provider: its name, in upper or lower case letters of ASCII.
            settings: ``provider_settings``; ``kbs`` ignores them.

        Raises:
            AgentError: KMS_UNKNOWN (no such provider, or it hands out none), KMS_SETTINGS_INVALID.
        """
        name, found = self._find(provider, settings)
        if isinstance(found, Getter):
            return found
        raise _lacks(name, "hands out no secrets")

    def decrypter(self, provider: str, settings: Mapping[str, msgspec.Raw]) -> Decrypter:
        """The backend that decrypts with keys of ``provider``; see :meth:`getter`.

        Raises:
            AgentError: KMS_UNKNOWN, KMS_SETTINGS_INVALID.
        """
        name, found = self._find(provider, settings)
        if isinstance(found, Decrypter):
            return found
        raise _lacks(name, "does not decrypt")

    def encrypter(self, provider: str, settings: Mapping[str, msgspec.Raw]) -> Encrypter:
        """The backend that encrypts with keys of ``provider``, for tools; see :meth:`getter`.

        Raises:
            AgentError: KMS_UNKNOWN, KMS_SETTINGS_INVALID.
        """
        name, found = self._find(provider, settings)
        if isinstance(found, Encrypter):
            return found
        raise _lacks(name, "does not encrypt")

    async def close(self) -> None:
        """Drop what backends hold, and all connections. Safe to call twice."""
        for opened in self._opened.values():
            _dispose(opened)
        self._opened.clear()
        if self._http is not None:
            await self._http.close()

    def _find(self, provider: str, settings: Mapping[str, msgspec.Raw]) -> tuple[str, object]:
        name = _canonical(provider)
        return name, self._kbs if name == KBS else self._open(name, settings)

    def _open(self, name: str, settings: Mapping[str, msgspec.Raw]) -> object:
        backend = _load(name)
        parsed = read_json(
            msgspec.json.encode(settings),
            backend.settings,
            ErrorCode.KMS_SETTINGS_INVALID,
            f"provider_settings of {name}",
        )
        key = name, msgspec.json.encode(parsed)
        found = self._opened.pop(key, None)
        if found is None:
            found = backend.open(parsed, self._shared())
        # Settings come from outside, so only the latest are kept. One that is dropped may be in use.
        while len(self._opened) >= _OPEN:
            del self._opened[next(iter(self._opened))]
        self._opened[key] = found
        return found

    def _shared(self) -> Context:
        if self._context is None:
            if self._http is None:
                # Most guests use none of this, and an HTTP library takes its time to load.
                from agent.hub.kms.http import KmsHttp  # noqa: PLC0415

                self._http = KmsHttp(self._settings)
            self._context = Context(Credentials(self._settings, self._resources), self._http, self._clock)
        return self._context


def plain(members: Mapping[str, msgspec.Raw]) -> dict[str, object]:
    """Annotations as :meth:`Getter.get` and :meth:`Decrypter.decrypt` take them: plain JSON values.

    Raises:
        AgentError: KMS_SETTINGS_INVALID (not UTF-8, nested too deeply).
    """
    text = msgspec.json.encode(members)
    return read_json(text, dict[str, object], ErrorCode.KMS_SETTINGS_INVALID, "annotations")


class _ThroughKbs:
    """Provider ``kbs``: what the hub's cache and the broker have."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    async def get(
        self,
        name: str,
        annotations: Mapping[str, object],  # noqa: ARG002  # the broker has no use for them
        deadline: Deadline,
    ) -> Secret:
        """See :meth:`Getter.get`; ``name`` is a resource URI."""
        return await self._resources.get(name, deadline)


def _canonical(provider: str) -> str:
    # ASCII first: lower() maps letters such as U+212A (Kelvin sign) to ASCII ones.
    name = provider.lower() if provider.isascii() else ""
    if name != KBS and name not in BACKENDS:
        known = ", ".join((KBS, *BACKENDS))
        raise AgentError(ErrorCode.KMS_UNKNOWN, f"the provider is none of {known}")
    return name


def _load(name: str) -> Backend[msgspec.Struct]:
    module = BACKENDS[name]
    try:
        return cast("Backend[msgspec.Struct]", import_module(module).BACKEND)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        # Guest images may leave out what they do not use.
        raise AgentError(ErrorCode.KMS_UNKNOWN, f"provider {name} is not part of this image") from None


def _lacks(name: str, what: str) -> AgentError:
    return AgentError(ErrorCode.KMS_UNKNOWN, f"provider {name} {what} (with these settings)")


def _dispose(opened: object) -> None:
    close = getattr(opened, "close", None)
    if callable(close):
        close()
