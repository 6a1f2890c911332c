"""What ttrpc connections make this process hold, and how long a peer may take.

An unfinished frame is one holder of the account (``agent/http/budget.py``); requests under way and unread
answers are another: bytes that come in are no progress of bytes that should go out.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from agent.config import limits
from agent.errors import RpcCode
from agent.serve.ttrpc.codec import Decoder, FrameType, encode_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.http.budget import Budget
    from agent.serve.ttrpc.codec import Event

    Refuse = Callable[[int, RpcCode, str], None]


class Pace:
    """Calls ``late`` when ``moved`` grows by less than ``TTRPC_LEAST`` in ``TTRPC_PATIENCE`` seconds.

    Args:
        moved: bytes so far.
        late: what to do then, once.
    """

    def __init__(self, moved: Callable[[], int], late: Callable[[], None]) -> None:
        self._moved, self._late = moved, late
        self._seen = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Watch from now on, unless that is so already."""
        if self._timer is None:
            self._seen = self._moved()
            self._timer = asyncio.get_running_loop().call_later(limits.TTRPC_PATIENCE, self._look)

    def stop(self) -> None:
        """It is over, or starts anew."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._moved() - self._seen < limits.TTRPC_LEAST:
            self._late()
        else:
            self.start()


class Inbox:
    """Frames of one connection on their way in. Gives up the unfinished one, and keeps the connection.

    Args:
        budget: the account.
        refuse: answers a stream with a status.
    """

    reserved = True
    stalled = True

    def __init__(self, budget: Budget, refuse: Refuse) -> None:
        self._budget, self._refuse = budget, refuse
        self._decoder = Decoder()
        self._received = self._counted = 0
        self._pace = Pace(lambda: self._received, self._late)

    def feed(self, data: memoryview) -> list[Event]:
        """What the bytes complete, see :meth:`Decoder.feed`."""
        events = self._decoder.feed(data)
        self._received += len(data)
        if events:
            self._pace.stop()
        if self._decoder.unfinished:
            self._pace.start()
        counted = max(0, self._decoder.unfinished - limits.TTRPC_OWN_BYTES)
        if counted != self._counted:
            self._counted = counted
            # T-TTRPC-20: unfinished frames are in the one account; the rest of a refused one is dropped.
            if not self._budget.hold(self, counted):
                self._give_up("there is no room for so large a request now")
        return events

    def evict(self) -> None:
        """Give up the unfinished frame."""
        stream, kind = self._forget()
        # Later: the account is at work, and the answer may need it.
        loop = asyncio.get_running_loop()
        loop.call_soon(self._answer, stream, kind, "the request did not go on, and others needed the room")

    def close(self) -> None:
        """The connection is gone."""
        self._forget()
        self._budget.leave(self)

    def _late(self) -> None:
        # T-TTRPC-21: a frame once begun ends or goes on; the connection is kept, idle ones are kata-agent's.
        self._give_up("the request did not go on")

    def _give_up(self, text: str) -> None:
        stream, kind = self._forget()
        self._budget.leave(self)
        self._answer(stream, kind, text)

    def _forget(self) -> tuple[int, int]:
        self._pace.stop()
        self._counted = 0
        return self._decoder.drop()

    def _answer(self, stream: int, kind: int, text: str) -> None:
        if kind in {FrameType.REQUEST, FrameType.DATA}:
            self._refuse(stream, RpcCode.RESOURCE_EXHAUSTED, text)


class Outbox:
    """Requests under way and unread answers of one connection. Gives up by closing it.

    Args:
        budget: the account.
        transport: pauses whenever it holds a byte that the kernel does not take.
    """

    reserved = True

    def __init__(self, budget: Budget, transport: asyncio.Transport) -> None:
        self._budget, self._transport = budget, transport
        self.asked = 0
        self._waiting = 0
        self._written = self._counted = self._seen = 0
        self._since = 0.0
        self._loop = asyncio.get_running_loop()
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = False
        # T-TTRPC-23: counting until the last byte is written, not until the answer is built.
        self._pace = Pace(self._sent, transport.abort)

    @property
    def stalled(self) -> bool:
        """Whether nothing was read of unread answers for ``TTRPC_STALLED`` seconds."""
        sent, now = self._sent(), self._loop.time()
        if sent != self._seen:
            self._seen, self._since = sent, now
        return not self._writable.is_set() and now - self._since >= limits.TTRPC_STALLED

    def evict(self) -> None:
        """Close the connection."""
        self._closed = True
        self._transport.abort()

    def begin(self, size: int) -> bool:
        """A request of ``size`` bytes is to be under way; False: there is no room for it."""
        self.asked += size
        if self._account():
            return True
        self.asked -= size
        return False

    def end(self, size: int) -> None:
        """Its bytes are no longer needed."""
        self.asked -= size
        self._account()

    async def send(self, stream: int, answer: bytes) -> None:
        """Write a frame when the peer has read those before it, or a status in its place."""
        self._waiting += len(answer)
        if not self._account():
            # T-TTRPC-16: answers that nobody reads are not collected.
            self._waiting -= len(answer)
            answer = encode_status(stream, RpcCode.RESOURCE_EXHAUSTED, "too many answers are unread")
            self._waiting += len(answer)
        try:
            while not self._writable.is_set():  # one large answer before this one may fill the buffer again
                await self._writable.wait()
        finally:
            self._waiting -= len(answer)
        self.write(answer)

    def write(self, frame: bytes) -> None:
        """Write a frame now."""
        if self._transport.is_closing():
            return
        self._written += len(frame)
        self._transport.write(frame)
        if not self._account():
            # T-TTRPC-24: refusals of a peer that sends and never reads are not collected either.
            self.evict()

    def pause(self) -> None:
        """The kernel takes no more."""
        self._writable.clear()
        self._seen, self._since = self._sent(), self._loop.time()
        self._pace.start()

    def resume(self) -> None:
        """The kernel has taken everything."""
        self._writable.set()
        self._pace.stop()
        self._account()

    def close(self) -> None:
        """The connection is gone."""
        self._closed = True
        self._writable.set()
        self._pace.stop()
        self._budget.leave(self)

    def _sent(self) -> int:
        return self._written - self._transport.get_write_buffer_size()

    def _account(self) -> bool:
        if self._closed:
            return True
        held = self.asked + self._waiting + self._transport.get_write_buffer_size()
        counted = max(0, held - limits.TTRPC_OWN_BYTES)
        if counted == self._counted:
            return True
        if not self._budget.hold(self, counted):
            return False
        self._counted = counted
        return True


class Load(msgspec.Struct):
    """Requests under way on all connections of one socket, and their bytes."""

    calls: int = 0
    asked: int = 0

    def admits(self, calls: int, asked: int, size: int) -> bool:
        """Whether a connection may have another request under way.

        Args:
            calls: those it has.
            asked: their bytes.
            size: bytes of the new one.
        """
        # T-TTRPC-22: many connections together; a few small requests of each are always served.
        return (calls < limits.TTRPC_OWN_CALLS or self.calls < limits.TTRPC_MAX_CALLS) and (
            asked + size <= limits.TTRPC_OWN_BYTES or self.asked + size <= limits.TTRPC_MAX_ASKED
        )

    def begin(self, size: int) -> None:
        """One more."""
        self.calls += 1
        self.asked += size

    def end(self) -> None:
        """One less; its bytes were taken off when they were no longer needed."""
        self.calls -= 1
