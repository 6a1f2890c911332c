"""What every key management backend of the hub offers, and what it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, runtime_checkable

import msgspec

from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.clock import Clock, Deadline
    from agent.hub.kms.credentials import Credentials
    from agent.hub.kms.http import KmsHttp
    from agent.secret import Secret

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


@runtime_checkable
class Getter(Protocol):
    """A backend that hands out secrets by name (cdh.md 5)."""

    async def get(self, name: str, annotations: Mapping[str, object], deadline: Deadline) -> Secret:
        """The plaintext stored under ``name``.

        Args:
            name: as the backend names its secrets; a resource URI for the key broker.
            annotations: backend-specific members of the request, plain JSON values; the key broker has none.
            deadline: when the caller stops waiting.

        Raises:
            AgentError: INVALID_URI, RESOURCE_NOT_FOUND, RESOURCE_DENIED and whatever else keeps the
                backend from answering.
        """


@runtime_checkable
class Decrypter(Protocol):
    """A backend that decrypts with a key it never hands out."""

    async def decrypt(
        self, ciphertext: bytes, key_id: str, annotations: Mapping[str, object], deadline: Deadline
    ) -> Secret:
        """The plaintext of ``ciphertext``.

        Args:
            ciphertext: as :meth:`Encrypter.encrypt` gave it.
            key_id: as the backend names its keys.
            annotations: as :meth:`Encrypter.encrypt` gave them.
            deadline: when the caller stops waiting.

        Raises:
            AgentError: KMS_*.
        """


@runtime_checkable
class Encrypter(Protocol):
    """The other direction; used by whoever makes secrets, never by a guest's workload."""

    async def encrypt(
        self, plaintext: Secret, key_id: str, deadline: Deadline
    ) -> tuple[bytes, dict[str, object]]:
        """Ciphertext and the annotations needed to decrypt it.

        Raises:
            AgentError: KMS_*.
        """


class Context(msgspec.Struct, frozen=True):
    """What a backend may use.

    Attributes:
        credentials: files or resources of the provider.
        http: the only way out.
        clock: for signatures with a date.
    """

    credentials: Credentials
    http: KmsHttp
    clock: Clock


class Backend(msgspec.Struct, Generic[S], frozen=True):
    """One provider; its module has it under the name ``BACKEND``.

    Attributes:
        name: as secrets name it, lower case.
        settings: struct of ``provider_settings``; unknown members are refused (``forbid_unknown_fields``).
        open: makes the object that is a Getter, a Decrypter, an Encrypter, or several of them. If it has a
            method ``close()``, that is called when the agent stops.
    """

    name: str
    settings: type[S]
    open: Callable[[S, Context], object]


def read_annotations(annotations: Mapping[str, object], shape: type[T], provider: str) -> T:
    """Annotations as ``shape``; members it does not have are ignored.

    Args:
        annotations: plain JSON values.
        shape: a msgspec struct, with a default for every member that may be missing.
        provider: names the backend in the error.

    Raises:
        AgentError: KMS_SETTINGS_INVALID.
    """
    try:
        return msgspec.convert(dict(annotations), type=shape)
    except msgspec.MsgspecError as error:
        raise AgentError(ErrorCode.KMS_SETTINGS_INVALID, f"annotations of {provider}: {error}") from None
