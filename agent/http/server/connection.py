"""One HTTP/1.1 connection on the server's side: one request at a time, in order, within bytes and time.

What is read is parsed at once, so no connection owns a read buffer. Bytes behind the request under way stay
as they came, and nothing more is read until they were taken.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from typing import Final, cast

from agent.config import limits
from agent.http.messages import FramingError, TooLargeError, TooManyLinesError
from agent.http.server.exchange import CONTINUE, Answer, BodyError, Loss, Refusal, encode_head, has_body
from agent.http.server.outbox import Outbox
from agent.http.server.phase import MAY_END, Phase, half_closed
from agent.http.server.state import State

_KEEP_ALIVE: Final = "keep-alive"
_CLOSE: Final = "close"
_AT_ONCE: Final = struct.pack("ii", 1, 0)


class Connection(State, asyncio.BufferedProtocol):
    """See the module."""

    __slots__ = ()

    # --- called by asyncio ------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, or be refused."""
        self._transport = cast("asyncio.Transport", transport)
        self._outbox = Outbox(self._transport)
        self.since = self._began = self._server.now()
        if not self._server.enter(self):
            self._close()
            return
        self._socket = transport.get_extra_info("socket")
        # T-HTTP-19: what the kernel holds for clients that do not read is memory of this guest, too.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.HTTP_SEND_BUFFER)
        self._transport.set_write_buffer_limits(high=0)
        self._side = self._server.application.meet(self._transport)
        self._settle()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Forget everything; a request under way is cancelled."""
        self._leave()
        self._server.lost()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """The server's own: it is free again when :meth:`buffer_updated` returns."""
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
        if self._phase is Phase.LINGER or self._phase is Phase.GONE:
            return
        came = bytes(self._server.buffer[:nbytes])
        self._inbox = self._inbox[self._at :] + came if self._at < len(self._inbox) else came
        self._at = 0
        self._advance()

    def eof_received(self) -> bool:
        """The client sends no more. On TCP it counts as gone, unless its answer is on the way already."""
        self._ended = True
        if self._phase is Phase.WORK and self._reader.complete:
            if half_closed(self._socket):
                self._settle()
            else:  # an answer that is ready by now is still written
                asyncio.get_running_loop().call_soon(self._give_up)
            return True
        return self._phase is Phase.WRITE or (self._phase in MAY_END and self._turn is not None)

    def pause_writing(self) -> None:
        """The kernel takes no more for now."""
        self._outbox.blocked = True

    def resume_writing(self) -> None:
        """The kernel has taken all it was given."""
        self._outbox.blocked = False
        if self._phase is not Phase.WRITE:
            return
        self.since = self._server.now()
        if self._outbox.pump():
            self._done()
        self._advance()

    # --- called by the server ---------------------------------------------------------------------
    def evict(self) -> None:
        """Give up what is held, and the connection with it."""
        self._server.application.lost(Loss.EVICTED)
        self.abort()

    def abort(self) -> None:
        """End it now, whatever is under way."""
        if self._phase is Phase.WRITE:
            # T-HTTP-19: or the kernel would go on with what it has, for a client that does not read.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._leave()
        self._transport.abort()

    def finish(self) -> None:
        """End it as soon as the request under way has its answer."""
        self._closing = True
        if self._phase in MAY_END:
            self._close()

    def expire(self, now: float) -> None:
        """Look whether its time is over."""
        if now < self.due:
            return
        if self._body.wanted:
            self._server.application.lost(Loss.SLOW_BODY)
            self._fail_body(Refusal.TOO_SLOW)
            self._settle()
        elif self._phase is Phase.WORK and half_closed(self._socket):
            self._settle()
        elif self._phase is Phase.WRITE:
            self._server.application.lost(Loss.SLOW_READER)
            self.abort()
        else:
            if self._phase is Phase.HEAD:
                self._server.application.lost(Loss.SLOW_HEAD)
            self._close()

    def _give_up(self) -> None:
        if self._task is not None and not self._task.done():
            self._close()

    def _advance(self) -> None:
        """Go on as far as bytes and state allow."""
        self._turn = None
        turns = limits.HTTP_PER_TURN
        while self._at < len(self._inbox):
            if self._phase is Phase.IDLE or self._phase is Phase.HEAD:
                # T-HTTP-17: pipelined requests share the loop with everybody's.
                turns -= 1
                if turns < 0:
                    self._turn = asyncio.get_running_loop().call_soon(self._advance)
                    break
                self._take_head()
            elif self._phase is Phase.DRAIN or self._body.wanted:
                self._take_body()
            else:
                break
        else:
            self._inbox, self._at = b"", 0
        if self._ended and self._phase in MAY_END and self._turn is None:
            self._close()
        self._settle()

    def _take_head(self) -> None:
        if not self._feed():
            return
        if self._reader.head is None:
            if self._phase is Phase.IDLE and self._reader.started:
                self._phase, self._began = Phase.HEAD, self._server.now()
            return
        if self._reader.held > limits.HTTP_UNCOUNTED and not self._hold():
            self._refused()
            return
        self._begin()

    def _take_body(self) -> None:
        if not self._feed():
            return
        self.since = self._server.now()
        if self._phase is Phase.DRAIN:
            self._reader.take()
            if self._reader.complete:
                self._next()
        else:
            self._body.came(self._reader)

    def _feed(self) -> bool:
        try:
            self._at += self._reader.feed(self._inbox[self._at :] if self._at else self._inbox)
        except FramingError as error:
            self._inbox, self._at = b"", 0  # what follows is looked at by nobody
            if self._body.wanted:
                self._fail_body(Refusal.BODY_NOT_FRAMED)
            elif self._phase is Phase.DRAIN:
                self._linger()
            else:
                large = isinstance(error, TooLargeError) and not isinstance(error, TooManyLinesError)
                self._refuse(Refusal.TOO_LARGE if large else Refusal.NOT_HTTP)
            return False
        return True

    # --- answering --------------------------------------------------------------------------------
    def _begin(self) -> None:
        head = self._reader.head
        assert head is not None  # noqa: S101
        self._phase, self._began = Phase.WORK, self._server.now()
        try:
            answer = self._side.answer(head, self._read_body)
        except Exception as error:  # noqa: BLE001  # the application logs it and makes an answer of it
            answer = self._side.broken(error)
        if isinstance(answer, Answer):
            self._send(answer)
        elif self._ended and not half_closed(self._socket):
            answer.close()
            self.abort()
        else:
            self._server.roster.begin(self)
            self._task = asyncio.get_running_loop().create_task(answer)
            self._task.add_done_callback(self._answered)
            self._server.run(self._task)

    def _answered(self, task: asyncio.Task[Answer]) -> None:
        if task is not self._task or task.cancelled():
            return
        self._task = None
        error = task.exception()
        self._send(task.result() if not isinstance(error, Exception) else self._side.broken(error))
        self._advance()

    async def _read_body(self, limit: int) -> bytes:
        head, reader = self._reader.head, self._reader
        # T-REST-21: bounded by what is announced and by what arrives.
        if ((head.length if head is not None else 0) or 0) > limit or reader.received > limit:
            raise BodyError(Refusal.BODY_TOO_LARGE)
        if not reader.complete:
            if head is not None and head.expects and not reader.received and not self._inbox:
                self._transport.write(CONTINUE)
                self._continued = True
            self.since = self._began = self._server.now()
            waiting = self._body.want(limit)
            self._server.roster.wait(self)
            self._server.thin_out()
            self._advance()
            try:
                await waiting
            finally:
                self._body.forget()
                if self._phase is Phase.WORK:
                    self._server.roster.begin(self)
                del waiting  # or its exception, this frame and the future keep each other
        self._taken = reader.received
        return reader.take()

    def _fail_body(self, refusal: Refusal) -> None:
        self._closing = True
        self._body.fail(refusal)

    def _refuse(self, refusal: Refusal) -> None:
        self._closing = True
        self._send(self._side.refuse(refusal))

    def _send(self, answer: Answer) -> None:
        head = self._reader.head
        unread = head is not None and head.expects and not self._reader.complete and not self._continued
        last = self._ended and self._at >= len(self._inbox)
        keep = head is not None and head.keep and not (answer.close or last or unread)
        self._closing = self._closing or not keep
        connection = _CLOSE if self._closing else _KEEP_ALIVE if head and head.version == (1, 0) else ""
        body = answer.body if has_body(answer, head.method if head else "") else b""
        if self._outbox.put(encode_head(answer, connection), body):
            self._done()
        else:
            self._phase, self._began = Phase.WRITE, self._server.now()
            self._server.roster.begin(self)

    def _done(self) -> None:
        self._taken = 0
        if self._closing:
            self._linger()
        elif self._reader.complete:
            self._next()
        else:
            self._reader.take()
            self._phase, self._began = Phase.DRAIN, self._server.now()

    def _next(self) -> None:
        self._reader.clear()
        self._continued = False
        self._phase = Phase.IDLE
        self.since = self._began = self._server.now()
        self._server.roster.rest(self)

    def _close(self) -> None:
        self._leave()
        self._transport.close()

    def _linger(self) -> None:
        """End it behind its last answer, in a way that the client can read it."""
        if self._ended or (self._reader.complete and self._at >= len(self._inbox)):
            self._close()
            return
        # T-HTTP-16: closing with input unread is a reset, which can overtake the answer.
        self._phase = Phase.LINGER
        self._release()
        self.since = self._began = self._server.now()
        self._server.roster.rest(self)
        try:
            self._transport.write_eof()
        except OSError:
            self.abort()

    def _leave(self) -> None:
        if self._phase is Phase.GONE:
            return
        self._phase, self.due = Phase.GONE, math.inf
        self._release()
        self._reader.clear()
        self._server.leave(self)
        self._charged = 0
        if self._turn is not None:
            self._turn.cancel()
        if self._task is not None:
            self._task.cancel()
            self._task = None  # it keeps what it was cancelled with, and so this connection

    # --- after each step --------------------------------------------------------------------------
    def _settle(self) -> None:
        """Account for what is held, set the time limit, and read on or not."""
        if self._phase is Phase.GONE:
            return
        # T-HTTP-20: nothing is held that is not in the account.
        if not self._hold() and not self._refused():
            self.abort()
            return
        self.due = self._until()
        self._server.watch(self.due)
        pause = self._at < len(self._inbox)
        if pause is not self._paused and not self._ended:
            self._paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _hold(self) -> bool:
        """Whether the account has room for all that is held here."""
        size = self._size()
        if not size and not self._charged:
            return True
        if not self._server.budget.hold(self, size):
            return False
        self._charged = size
        return True

    def _refused(self) -> bool:
        """Give up what there is no room for, and say so to the client; whether that was possible."""
        self._server.application.lost(Loss.NO_ROOM)
        if self._body.wanted:
            self._reader.take()
            self._fail_body(Refusal.NO_ROOM)
        elif self._phase in {Phase.IDLE, Phase.HEAD}:
            self._inbox, self._at = b"", 0
            self._refuse(Refusal.NO_ROOM)
            self._reader.clear()
        return self._hold()
