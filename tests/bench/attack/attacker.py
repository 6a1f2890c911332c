"""Helper: the bad connections of one container. Arguments: the attack's name, how many connections, and where
the agent listens, ``host:port`` or a socket's path.

``go`` answers when all connections stand: each has sent all it wanted or the agent takes no more. They are
kept up from then on: one that the agent ends is replaced, up to 100 of them a second. ``leave`` closes all.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import resource
import select
import socket
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from tests.bench.attack.kinds import ATTACKS
from tests.bench.children import obey, say

if TYPE_CHECKING:
    from tests.bench.attack.kinds import Attack, Script

REPLACED: Final = 100
"""Connections a second that take the place of ended ones."""

OPENED: Final = 1000
"""Connections a second at the beginning: more overflow the kernel's queue and hinder themselves."""

TURN_S: Final = 0.02
SETTLED_S: Final = 0.5
"""The attack stands when it has sent nothing for so long."""

STANDS_S: Final = 3.0
"""Or so long after the last connection was opened, whatever is still sent: replacements send as well."""

GIVES_UP_S: Final = 10.0
"""Or after so long, when the agent takes no connections."""

RECEIVES: Final = 4096
"""Receive buffer asked for, so that answers nobody reads stay with the agent."""

PIECE: Final = 1 << 16


@dataclass(slots=True)
class Slot:
    """One connection and how far it has come."""

    script: Script
    socket: socket.socket
    sent: int = 0
    drips: float = 0.0


class Attacker(threading.Thread):
    """Keeps ``attack.count`` connections up until ``leaves`` is set.

    Attributes:
        stands: set when all of them are there and have sent what they can.
        leaves: to be set by the owner.
        opened: connections so far, replacements included.
        sent: bytes the agent's kernel took.
    """

    def __init__(self, attack: Attack, where: str) -> None:
        super().__init__(daemon=True)
        host, colon, port = where.rpartition(":")
        self._address: tuple[str, int] | str = (host, int(port)) if colon else where
        self._family = socket.AF_INET if colon else socket.AF_UNIX
        self._attack = attack
        self._poll = select.epoll()
        self._slots: dict[int, Slot] = {}
        self._numbers = itertools.count()
        self._allowance = 0.0
        self._progress = 0.0
        self.stands = threading.Event()
        self.leaves = threading.Event()
        self.sent = 0
        self.opened = 0

    @property
    def standing(self) -> int:
        """Connections there are now."""
        return len(self._slots)

    def run(self) -> None:
        begin = last = complete = self._progress = time.monotonic()
        while not self.leaves.is_set():
            now = time.monotonic()
            self._open(now - last)
            last = now
            for number, events in self._poll.poll(TURN_S, 1024):  # no socket is made meanwhile
                self._serve(self._slots[number], events)
            self._drip(now)
            if self.opened < self._attack.count:
                complete = now
            settled = max(complete, self._progress) + SETTLED_S
            if (now > min(settled, complete + STANDS_S) and now > complete) or now > begin + GIVES_UP_S:
                self.stands.set()
        for slot in self._slots.values():
            slot.socket.close()

    def _open(self, passed: float) -> None:
        rate = REPLACED if self.opened >= self._attack.count else OPENED
        self._allowance = min(self._allowance + passed * rate, rate * 0.1)
        while len(self._slots) < self._attack.count and self._allowance >= 1:
            self._allowance -= 1
            made = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVES)
            code = made.connect_ex(self._address)
            if code not in (0, errno.EINPROGRESS):  # EAGAIN: a unix socket's queue is full
                made.close()
                return
            self.opened += 1
            self._slots[made.fileno()] = Slot(self._attack.script(next(self._numbers)), made)
            self._poll.register(made, select.EPOLLOUT | self._always(made.fileno()))

    def _always(self, number: int) -> int:
        return select.EPOLLRDHUP | (select.EPOLLIN if self._slots[number].script.listens else 0)

    def _serve(self, slot: Slot, events: int) -> None:
        try:
            if events & (select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP | select.EPOLLIN):
                self._end(slot)
            elif events & select.EPOLLOUT:
                self._send(slot)
        except OSError:
            self._end(slot)

    def _send(self, slot: Slot) -> None:
        data = slot.script.send
        if slot.sent < len(data):
            count = slot.socket.send(memoryview(data)[slot.sent : slot.sent + PIECE])
            slot.sent += count
            self.sent += count
            self._progress = time.monotonic()
        if slot.sent == len(data):
            self._poll.modify(slot.socket, self._always(slot.socket.fileno()))

    def _drip(self, now: float) -> None:
        for slot in tuple(self._slots.values()):
            if slot.script.drip and slot.sent == len(slot.script.send) and now > slot.drips + 1:
                slot.drips = now
                try:
                    slot.socket.send(slot.script.drip)
                except OSError:
                    self._end(slot)

    def _end(self, slot: Slot) -> None:
        del self._slots[slot.socket.fileno()]
        slot.socket.close()


async def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    attacker = Attacker(replace(ATTACKS[sys.argv[1]], count=int(sys.argv[2])), sys.argv[3])

    async def handle(verb: str, arguments: dict[str, Any]) -> dict[str, object]:
        if verb == "go":
            attacker.start()
            await asyncio.to_thread(attacker.stands.wait)
        standing = attacker.standing
        if verb == "leave":
            attacker.leaves.set()
            await asyncio.to_thread(attacker.join)
        return {"standing": standing, "opened": attacker.opened, "sent_mb": attacker.sent / 1e6}

    say(ready=True)
    with contextlib.suppress(KeyboardInterrupt):
        await obey(handle)


if __name__ == "__main__":
    asyncio.run(main())
