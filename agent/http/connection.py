"""One connection to a server, and one exchange at a time on it."""

from __future__ import annotations

import asyncio
import enum
import socket
from typing import TYPE_CHECKING, Any, Final, cast

from agent.config import limits
from agent.http.exchange import HttpError, Response, Trouble
from agent.http.messages import FramingError
from agent.http.parser import ResponseReader
from agent.http.reasons import number, system_reason, tls_reason

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from agent.http.messages import Bounds, ResponseHead


_IN_ONE: Final = 16 * limits.KIB
"""Head and body up to this leave in one piece; above, the copy would cost more than a second write."""

_PATIENCE: Final = 3600.0
"""Seconds asyncio may wait in a handshake by itself: longer than any caller, whose limit counts."""

_FAREWELL: Final = 1.0
"""Seconds for TLS's own end. Our side never waits for it: it closes at once."""


class State(enum.Enum):
    """What may come in."""

    QUIET = "nothing: no request is under way"
    ASKING = "an answer"
    OVER = "nothing any more"


class Connection(asyncio.Protocol):
    """A TCP connection, with TLS on it or not.

    Args:
        bounds: of each answer.

    Attributes:
        kept: it has answered before.
        reusable: after an exchange: another may follow.
        since: when it fell idle; the pool's.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._reader = ResponseReader(bounds)
        self._layers: list[asyncio.Transport] = []
        self._socket: socket.socket | None = None
        self._tls: ssl.SSLObject | None = None
        self._state = State.QUIET
        self._answer: asyncio.Future[Response] | None = None
        self._wanted: Callable[[ResponseHead], int] | None = None
        self._most: int | None = None
        self._heard = self._early = self._unasked = self._tunnel = False
        self.kept = self.reusable = False
        self.since = 0.0

    # --- set-up -----------------------------------------------------------------------------------
    def own(self, raw: socket.socket) -> None:
        """The socket below the transport; the transport closes it."""
        self._socket = raw

    async def secure(self, context: ssl.SSLContext, name: str) -> None:
        """Speak TLS from now on, above what is spoken already.

        Args:
            context: with all checks.
            name: of the server, a name or an address.

        Raises:
            OSError: of the kernel or, as ``ssl.SSLError``, of TLS.
            HttpError: TLS, SILENT: the connection is no longer good.
        """
        if self._unasked:
            raise HttpError(Trouble.TLS, "TLS: the server spoke before the handshake")
        if not self.open:
            raise HttpError(Trouble.SILENT, "closed ahead of the TLS handshake")
        made: Any = await asyncio.get_running_loop().start_tls(
            self._layers[-1],
            self,
            context,
            server_hostname=name,
            ssl_handshake_timeout=_PATIENCE,
            ssl_shutdown_timeout=_FAREWELL,
        )
        if made is None or self._state is State.OVER:
            raise HttpError(Trouble.SILENT, "the connection ended in the TLS handshake")
        self._layers.append(made)
        self._tls = made.get_extra_info("ssl_object")

    # --- use --------------------------------------------------------------------------------------
    @property
    def session(self) -> ssl.SSLObject | None:
        """TLS as it was agreed on; None without."""
        return self._tls

    @property
    def open(self) -> bool:
        """Whether it may be used: no end, and nothing unasked, was seen so far."""
        return self._state is State.QUIET and bool(self._layers)

    def untouched(self) -> bool:
        """Whether nothing has arrived that the loop has not seen yet, not even an end."""
        # T-HTTP-41: what came while nobody asked, or the end of the connection, may be in the kernel only.
        if self._socket is None:
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        return False

    async def ask(
        self,
        head: bytes,
        body: bytes | None,
        wanted: Callable[[ResponseHead], int],
        *,
        tunnel: bool = False,
    ) -> Response:
        """Send a request and read its answer. Afterwards see :attr:`reusable`; else it is closed.

        Args:
            head: with its empty line.
            body: what ``head`` announces.
            wanted: see :class:`agent.http.exchange.Request`.
            tunnel: the request is ``CONNECT``.

        Raises:
            HttpError: UNSENT, SILENT, BROKEN, FRAMING, TLS.
        """
        self._check_quiet()
        self._tunnel = tunnel
        if tunnel:
            self._reader = ResponseReader(self._bounds, tunnel=True)
        self._wanted, self._most = wanted, None
        self._heard = self._early = self.reusable = False
        self._answer = asyncio.get_running_loop().create_future()
        self._state = State.ASKING
        try:
            self._send(head, body)
            return await self._answer
        except BaseException:
            _drop(self._answer)
            self.abort()
            raise
        finally:
            self._answer = self._wanted = None
            if tunnel:
                self._reader = ResponseReader(self._bounds)

    def abort(self) -> None:
        """Close at once: nothing is sent any more, nothing waited for."""
        if self._state is State.ASKING:
            self._fail(HttpError(Trouble.CLOSED, "the connection was closed"))
        self._state = State.OVER
        self.reusable = False
        if self._layers:
            self._layers[0].abort()

    # --- asyncio's --------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The TCP connection stands."""
        self._layers.append(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        """Bytes, which are of an answer only while one is waited for."""
        if self._state is not State.ASKING:
            # T-HTTP-43: said to an idle connection, it would be taken for the answer to the next request.
            self._unasked = True
            self.abort()
            return
        self._heard = True
        try:
            taken = self._reader.feed(data)
        except FramingError as error:
            self._fail(HttpError(Trouble.FRAMING, str(error)))
        else:
            self._look(len(data) - taken)

    def eof_received(self) -> None:
        """The server sends nothing more; that may be the end of an answer."""
        if self._state is State.ASKING and self._reader.head is not None and self._ended_cleanly():
            try:
                self._reader.finish()
            except FramingError:
                pass  # told as broken below
            else:
                self._look(0)
        self._end(None)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._end(exc)

    # --- inside -----------------------------------------------------------------------------------
    def _check_quiet(self) -> None:
        # T-HTTP-42: what a server says before it is asked answers nothing. With TLS, tickets may wait there.
        if not self.kept and (self._unasked or (self._tls is None and self._waiting())):
            self.abort()
            raise HttpError(Trouble.FRAMING, "the server spoke before it was asked")
        if not self.open or self._layers[0].is_closing():
            raise HttpError(Trouble.UNSENT, "the connection ended before the request")

    def _waiting(self) -> bool:
        try:
            return self._socket is not None and bool(self._socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _send(self, head: bytes, body: bytes | None) -> None:
        raw, transport = self._layers[0], self._layers[-1]
        whole = body is None or len(head) + len(body) <= _IN_ONE
        transport.write(head + (body or b"") if whole else head)
        if raw.is_closing():  # the kernel took nothing of the first piece
            raise HttpError(Trouble.UNSENT, "the connection ended before the request")
        if not whole and body is not None:
            transport.write(body)

    def _unsent(self) -> int:
        return sum(layer.get_write_buffer_size() for layer in self._layers)

    def _look(self, extra: int) -> None:
        """The reader has taken bytes; ``extra`` more came behind the answer."""
        reader, head = self._reader, self._reader.head
        if head is None:
            return
        if self._most is None and self._wanted is not None:
            # T-HTTP-44: a server that answers before it has read all would read the rest as a request.
            self._early = self._unsent() > 0
            self._most = self._wanted(head)
        # T-HTTP-46: counted while reading; the announced length only spares us the beginning.
        most = self._most or 0
        if reader.received > most or (head.length or 0) > most:
            self._finish(Response(head, None))
            self.abort()
        elif self._tunnel and head.status < 300:
            # T-HTTP-49: what a proxy sends behind its answer would be read as the server's.
            if extra:
                self._fail(HttpError(Trouble.FRAMING, "the proxy sent more than an answer to CONNECT"))
            else:
                self._finish(Response(head, b""))
        elif reader.complete:
            # T-HTTP-45: one answer per request; what comes behind it belongs to nothing.
            self.reusable = self.kept = head.keep and not extra and not self._early
            self._finish(Response(head, reader.take()))
            if not self.reusable:
                self.abort()
            else:
                reader.clear()

    def _finish(self, response: Response) -> None:
        self._state = State.QUIET
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(response)

    def _fail(self, error: HttpError) -> None:
        self._state = State.OVER
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        if self._layers:
            self._layers[0].abort()

    def _end(self, error: Exception | None) -> None:
        if self._state is State.ASKING:
            self._fail(self._why(error))
        self._state = State.OVER
        self.reusable = False

    def _why(self, error: Exception | None) -> HttpError:
        if reason := tls_reason(error):
            return HttpError(Trouble.TLS, reason)
        detail = system_reason(error) if isinstance(error, OSError) else "closed by the server"
        return HttpError(Trouble.BROKEN if self._heard else Trouble.SILENT, detail, errno=number(error))

    def _ended_cleanly(self) -> bool:
        # T-HTTP-47: an answer that ends with the connection could be cut by anybody on the way; TLS says
        # when it is over.
        return self._tls is None or getattr(self._tls, "ended", False)


def _drop(answer: asyncio.Future[Response]) -> None:
    """Nobody asks for it any more; a failure in it is no defect."""
    if not answer.cancel() and not answer.cancelled():
        answer.exception()
