"""One connection to a server, and one exchange at a time on it."""

from __future__ import annotations

import asyncio
import enum
import socket
from typing import TYPE_CHECKING, Final, TypeVar, cast

from agent.config import limits
from agent.http.client.exchange import HttpError, Response, Trouble
from agent.http.client.layer import Layer
from agent.http.client.reasons import number, system_reason, tls_reason
from agent.http.messages import FramingError
from agent.http.parser import ResponseReader

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from agent.http.messages import Bounds, ResponseHead

T = TypeVar("T")

_IN_ONE: Final = 16 * limits.KIB
"""Head and body up to this leave in one piece; above, the copy would cost more than a second write."""


_ANSWER: Final = b"HTTP/1."


class State(enum.Enum):
    """What may come in."""

    QUIET = "nothing: no request is under way"
    SHAKING = "the server's part of a TLS handshake"
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
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._layers: list[Layer] = []  # the outermost first
        self._shaking: Layer | None = None
        self._state = State.QUIET
        self._shaken: asyncio.Future[None] | None = None
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
            ssl.SSLError: what TLS, or a check of the context, has against the server.
            HttpError: TLS, SILENT: the connection is no longer good.
        """
        if self._unasked:
            raise HttpError(Trouble.TLS, "TLS: the server spoke before the handshake")
        if not self.open:
            raise HttpError(Trouble.SILENT, "the connection ended ahead of the TLS handshake")
        self._shaking = Layer(context, name)
        self._shaken = asyncio.get_running_loop().create_future()
        self._state = State.SHAKING
        self._shake(b"")
        try:
            await self._until(self._shaken)
        finally:
            self._shaken = self._shaking = None

    # --- use --------------------------------------------------------------------------------------
    @property
    def session(self) -> ssl.SSLObject | None:
        """TLS with the server as it was agreed on; None without."""
        return self._layers[-1].session if self._layers else None

    @property
    def open(self) -> bool:
        """Whether it may be used: no end, and nothing unasked, was seen so far."""
        return self._state is State.QUIET and self._transport is not None

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
            wanted: see :class:`agent.http.client.exchange.Request`.
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
        self._send(head, body)
        try:
            return await self._until(self._answer)
        finally:
            self._answer = self._wanted = None
            if tunnel:
                self._reader = ResponseReader(self._bounds)

    def abort(self) -> None:
        """Close at once: nothing is sent any more, nothing waited for."""
        self._fail(HttpError(Trouble.CLOSED, "the connection was closed"))

    # --- asyncio's --------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The TCP connection stands."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes, which are of use only while some are waited for."""
        if self._state is State.QUIET and self.kept:
            # T-HTTP-43: said to an idle connection, it would be taken for the answer to the next request.
            self.abort()
            return
        try:
            self._take(self._opened(data))
        except FramingError as error:
            self._fail(HttpError(Trouble.FRAMING, str(error)))
        except OSError as error:  # TLS
            self._lost(error)
        if any(layer.ended for layer in self._layers):
            self.eof_received()

    def eof_received(self) -> None:
        """The server sends nothing more; that may be the end of an answer."""
        # T-HTTP-47: an answer that ends with the connection could be cut by anybody on the way; TLS says
        # when it is over.
        clean = not self._layers or self._layers[-1].ended
        if self._state is State.ASKING and self._reader.head is not None and clean:
            try:
                self._reader.finish()
            except FramingError:
                pass  # told as broken below
            else:
                self._look(b"")
        self._lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._lost(exc)

    # --- bytes ------------------------------------------------------------------------------------
    def _opened(self, data: bytes) -> bytes:
        for depth, layer in enumerate(self._layers):
            data = layer.opened(data)
            self._write(layer.outgoing(), self._layers[:depth])
        return data

    def _take(self, data: bytes) -> None:
        if self._state is State.SHAKING:
            self._shake(data)
        elif self._state is State.ASKING and data:
            self._heard = True
            taken = self._reader.feed(data)
            self._look(data[taken:])
        elif data:
            self._unasked = True
            self.abort()

    def _shake(self, data: bytes) -> None:
        layer, shaken = self._shaking, self._shaken
        if layer is None or shaken is None:
            return
        try:
            done = layer.shake(data)
        except OSError as error:
            self._write(layer.outgoing(), self._layers)  # the alert
            self._state = State.OVER
            if not shaken.done():
                shaken.set_exception(error)
            return
        self._write(layer.outgoing(), self._layers)
        if done:
            self._layers.append(layer)
            self._state = State.QUIET
            if not shaken.done():
                shaken.set_result(None)
            self._take(layer.opened(b""))  # what came along with it

    def _send(self, head: bytes, body: bytes | None) -> None:
        whole = body is None or len(head) + len(body) <= _IN_ONE
        try:
            self._write(head + (body or b"") if whole else head, self._layers)
            if self._transport is None or self._transport.is_closing():  # the kernel took nothing of it
                self._fail(HttpError(Trouble.UNSENT, "the connection ended before the request"))
            elif not whole and body is not None:
                self._write(body, self._layers)
        except OSError as error:  # TLS
            self._lost(error)

    def _write(self, data: bytes, layers: Sequence[Layer]) -> None:
        if data and self._transport is not None:
            for layer in reversed(layers):
                data = layer.sealed(data)
            self._transport.write(data)

    # --- answers ----------------------------------------------------------------------------------
    def _check_quiet(self) -> None:
        # T-HTTP-42: what a server says before it is asked answers nothing. With TLS, tickets may wait there.
        if not self.kept and (self._unasked or (not self._layers and self._waiting())):
            self.abort()
            raise HttpError(Trouble.FRAMING, "the server spoke before it was asked")
        if not self.open or self._transport is None or self._transport.is_closing():
            raise HttpError(Trouble.UNSENT, "the connection ended before the request")

    def _waiting(self) -> bool:
        try:
            return self._socket is not None and bool(self._socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _look(self, extra: bytes) -> None:
        """The reader has taken bytes; ``extra`` ones came behind the answer."""
        reader, head = self._reader, self._reader.head
        if head is None:
            return
        if self._most is None and self._wanted is not None:
            # T-HTTP-44: a server that answers before it has read all would read the rest as a request.
            self._early = self._transport is None or self._transport.get_write_buffer_size() > 0
            self._most = self._wanted(head)
        # T-HTTP-46: counted while reading; the announced length only spares us the beginning.
        most = self._most or 0
        if self._tunnel and head.status < 300:
            # T-HTTP-49: what a proxy sends behind its answer would be read as the server's.
            if extra:
                self._fail(HttpError(Trouble.FRAMING, "the proxy sent more than an answer to CONNECT"))
            else:
                self._finish(Response(head, b""), good=True)
        elif reader.received > most or (head.length or 0) > most:
            self._finish(Response(head, None), good=False)
        elif reader.complete:
            # T-HTTP-45: one answer per request; what comes behind it belongs to nothing. What cannot be
            # another answer is the rest of this one, which is longer than it says.
            more = extra.lstrip(b"\r\n")
            if not (more.startswith(_ANSWER) or _ANSWER.startswith(more)):
                raise FramingError("longer than it says")
            self.reusable = self.kept = head.keep and not extra and not self._early
            self._finish(Response(head, reader.take()), good=self.reusable)

    def _finish(self, response: Response, *, good: bool) -> None:
        self._state = State.QUIET
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(response)
        if good:
            self._reader.clear()
        else:
            self.abort()

    # --- ends -------------------------------------------------------------------------------------
    async def _until(self, future: asyncio.Future[T]) -> T:
        try:
            return await future
        except BaseException:
            # Nobody asks for it any more; a failure in it is no defect.
            if not future.cancel() and not future.cancelled():
                future.exception()
            self.abort()
            raise

    def _lost(self, error: Exception | None) -> None:
        self._fail(self._why(error))

    def _fail(self, error: HttpError) -> None:
        """Close; what is under way ends with the error."""
        waiting = self._shaken if self._state is State.SHAKING else None
        waiting_for = self._answer if self._state is State.ASKING else None
        self._state = State.OVER
        self.reusable = False
        for future in (waiting, waiting_for):
            if future is not None and not future.done():
                future.set_exception(error)
        if self._transport is not None:
            self._transport.abort()

    def _why(self, error: Exception | None) -> HttpError:
        if reason := tls_reason(error):
            return HttpError(Trouble.TLS, reason)
        detail = system_reason(error) if isinstance(error, OSError) else "closed by the server"
        return HttpError(Trouble.BROKEN if self._heard else Trouble.SILENT, detail, errno=number(error))
