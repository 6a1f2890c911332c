"""What llhttp reports of one message, as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.config import limits
from agent.http.messages import TooLargeError, TooManyLinesError

if TYPE_CHECKING:
    from agent.http.messages import Bounds


class Collected:
    """What llhttp reports of one message.

    A parser keeps the object that it reports to. Were that the reader, the two would hold each other, and the
    bytes of a closed connection would stay until the next collection of cycles.
    """

    __slots__ = ("_body", "_bounds", "_lines", "ended", "fields", "headed", "size")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._lines = 0
        self.fields: dict[str, list[str]] = {}
        self._body: list[bytearray] = []
        self.size = 0
        self.headed = False
        self.ended = False

    def clear(self) -> None:
        """Begin with the next message."""
        self._lines = 0
        self.fields = {}
        self._body.clear()
        self.size = 0
        self.headed = self.ended = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line; trailers are dropped."""
        if self.headed:
            return
        self._lines += 1
        # T-HTTP-2: each line becomes objects, so lines are counted besides their bytes.
        if self._lines > self._bounds.fields:
            raise TooManyLinesError("the head has too many lines")
        if self._bounds.field is not None and len(name) + len(value) > self._bounds.field:
            raise TooLargeError("a header line is too long")
        text = value.decode("utf-8", "surrogateescape").strip(" \t")
        self.fields.setdefault(name.decode("ascii").lower(), []).append(text)

    def on_body(self, data: bytes) -> None:
        """A piece of the body. Pieces are joined: each as an object would weigh more than what it holds."""
        # One buffer for all of it would be moved while it grows, and leave holes where it was.
        if not self._body or len(self._body[-1]) >= limits.HTTP_READ:
            self._body.append(bytearray())
        self._body[-1] += data
        self.size += len(data)

    def take(self) -> bytes:
        """The body's bytes since the last call."""
        body = b"".join(self._body)
        self._body.clear()
        self.size = 0
        return body

    def on_message_complete(self) -> None:
        """The message's last byte was parsed."""
        self.ended = True
