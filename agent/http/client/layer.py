"""TLS between a connection and its bytes, without IO.

Not asyncio's: that one keeps 256 KiB per connection, waits by itself when a connection ends, and hides what
has been sent. This one also goes into another of its kind, for proxies with TLS.
"""

from __future__ import annotations

import ssl
from typing import Final

_PIECE: Final = 64 * 1024


class Layer:
    """One TLS session: of ours below, of theirs above.

    Args:
        context: with all checks.
        name: of the server, a name or an address.

    Attributes:
        session: what was agreed on.
        ended: the server said, inside TLS, that nothing more comes.
    """

    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.session = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self.ended = False

    def shake(self, data: bytes) -> bool:
        """Go on with the handshake; afterwards see :meth:`outgoing`.

        Args:
            data: of the server; empty at first.

        Returns:
            Whether it is done.

        Raises:
            ssl.SSLError: what TLS, or a check of the context, has against the server.
        """
        self._incoming.write(data)
        try:
            self.session.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def opened(self, data: bytes) -> bytes:
        """Plain bytes out of those that came; there may be :meth:`outgoing` ones, too.

        Raises:
            ssl.SSLError: they are not the server's, or it refuses to go on.
        """
        self._incoming.write(data)
        pieces: list[bytes] = []
        while not self.ended:
            try:
                piece = self.session.read(_PIECE)
            except ssl.SSLWantReadError:
                break
            self.ended = not piece  # what OpenSSL makes of the server's closing alert
            pieces.append(piece)
        return b"".join(pieces)

    def sealed(self, data: bytes) -> bytes:
        """What to send for plain bytes.

        Raises:
            ssl.SSLError: the session is over.
        """
        view = memoryview(data)
        while view:
            view = view[self.session.write(view) :]
        return self.outgoing()

    def outgoing(self) -> bytes:
        """What TLS itself has to send: parts of the handshake, alerts."""
        return self._outgoing.read()
