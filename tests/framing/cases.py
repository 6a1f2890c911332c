"""What a case of the corpus is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.framing.feeding import End

NEXT: Final = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
"""Behind a request, so that its end shows."""

OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext"
"""Behind an answer, likewise."""


@dataclass(frozen=True)
class Case:
    """Bytes of one connection, and what they are.

    Attributes:
        messages: start and body of each (see :class:`tests.framing.feeding.Message`).
    """

    name: str
    data: bytes
    messages: tuple[tuple[str, bytes], ...]
    end: End


def refused(name: str, data: bytes, *before: tuple[str, bytes]) -> Case:
    """Something that is taken by nobody here, behind messages that are."""
    return Case(name, data, before, "refused")


def lines(*fields: bytes) -> bytes:
    return b"".join(field + b"\r\n" for field in fields) + b"\r\n"
