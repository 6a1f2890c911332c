"""Bytes that do not print, and structs that print without some of theirs."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, NoReturn, final

if TYPE_CHECKING:
    import msgspec


@final
class Secret:
    """Plaintext, tokens and keys on their way through the agent.

    The value is held in a ``bytearray`` so that :meth:`wipe` can overwrite it. Python may have made
    copies before and after; ``docs/security.md`` says what that means.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes | bytearray | memoryview) -> None:
        self._value = bytearray(value)

    def reveal(self) -> bytes:
        """A copy of the plaintext, to be handed to the wire or to a cipher and then dropped."""
        return bytes(self._value)

    def copy(self) -> Secret:
        """Another secret with the same value, which lives and is wiped on its own."""
        return Secret(self._value)

    def wipe(self) -> None:
        """Overwrite the held copy with zeros and forget it."""
        self._value[:] = bytes(len(self._value))
        self._value.clear()

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]  # a secret is not a dictionary key

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "***"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not serialised")


def without(struct: msgspec.Struct, *hidden: str) -> str:
    """What ``repr`` gives, but for fields that are no business of a log or a traceback."""
    names = (name for name in struct.__struct_fields__ if name not in hidden)
    return f"{type(struct).__name__}({', '.join(f'{name}={getattr(struct, name)!r}' for name in names)})"
