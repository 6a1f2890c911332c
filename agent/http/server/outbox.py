"""An answer on its way out, in pieces: the transport never holds more than one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.config import limits

if TYPE_CHECKING:
    import asyncio


class Outbox:
    """One answer at a time.

    Args:
        transport: where it goes. Its buffer's high-water mark is 0, so it says when it took all.

    Attributes:
        held: bytes that are kept for the answer until its last byte was taken off us.
        sent: bytes of it that were.
        blocked: the transport still has some.
    """

    __slots__ = ("_given", "_left", "_transport", "blocked", "held", "sent")

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._left: memoryview | None = None
        self._given = 0
        self.held = 0
        self.sent = 0
        self.blocked = False

    def put(self, head: bytes, body: bytes) -> bool:
        """Send an answer.

        Returns:
            Whether all of it is out.
        """
        self.held, self.sent = len(head) + len(body), 0
        if len(body) <= limits.HTTP_PIECE:
            self._given = self.held
            self._transport.write(head + body if body else head)
        else:
            self._given = len(head)
            self._left = memoryview(body)
            self._transport.write(head)
        return self.pump()

    def pump(self) -> bool:
        """Send on.

        Returns:
            Whether all of it is out.
        """
        while self._left is not None and not self.blocked and not self._transport.is_closing():
            piece, self._left = self._left[: limits.HTTP_PIECE], self._left[limits.HTTP_PIECE :]
            self._given += len(piece)
            self._transport.write(piece)
            if not self._left:
                self._left = None
        if self._left is None and not self.blocked:
            self.drop()
            return True
        self.sent = self._given - self._transport.get_write_buffer_size()
        return False

    def drop(self) -> None:
        """Keep nothing of it."""
        self._left = None
        self.held = self._given = self.sent = 0
