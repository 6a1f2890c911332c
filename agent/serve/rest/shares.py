"""Fair shares of a bounded number of request slots.

Neither a peer nor a name may take them all. When they are taken all the same, by many of each, the request
that waited longest makes room for a newcomer: what is answered soon is not behind what is not.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from agent.config import limits
from agent.errors import ErrorCode
from agent.serve.rest.answers import RestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.serve.rest.guard import Peer


def share_key(peer: Peer) -> str:
    """Whose share a peer's requests count against: its user on a unix socket, its connection on TCP."""
    return peer.label if peer.uid is None else f"uid={peer.uid}"


class Bounds(msgspec.Struct, frozen=True):
    """How many requests may wait at a time.

    Attributes:
        slots: all together.
        share: of one peer, and for one name.
        names: different names.
    """

    slots: int
    share: int
    names: int


class _Slot(msgspec.Struct, eq=False):
    peer: str
    name: str | None
    since: float
    make_room: Callable[[], None]


class Shares:
    """The slots. Not thread-safe: they belong to one event loop.

    Args:
        bounds: of the requests that wait.
        now: seconds on a clock that only goes forward.
    """

    def __init__(self, bounds: Bounds, now: Callable[[], float]) -> None:
        self._bounds = bounds
        self._now = now
        self._slots: dict[_Slot, None] = {}  # the oldest first
        self._peers: Counter[str] = Counter()
        self._names: Counter[str] = Counter()

    @contextmanager
    def slot(self, peer: str, name: str | None, make_room: Callable[[], None]) -> Iterator[None]:
        """Hold one slot.

        Args:
            peer: from :func:`share_key`.
            name: of the resource; None when the request is for none.
            make_room: ends this request soon; called when a newcomer has taken its slot.

        Raises:
            RestError: TOO_MANY_REQUESTS.
        """
        # T-REST-22: one peer leaves room for others.
        if self._peers[peer] >= self._bounds.share:
            raise RestError(ErrorCode.TOO_MANY_REQUESTS, "too many requests of one peer under way")
        # T-REST-23: a name the broker is slow with leaves room for other names.
        if name is not None and self._names[name] >= self._bounds.share:
            raise RestError(ErrorCode.TOO_MANY_REQUESTS, "too many requests for one name under way")
        # T-REST-18: a bounded number of requests can hold memory.
        if len(self._slots) >= self._bounds.slots:
            self._displace(sole=False)
        if name is not None and name not in self._names and len(self._names) >= self._bounds.names:
            self._displace(sole=True)
        slot = _Slot(peer, name, self._now(), make_room)
        self._slots[slot] = None
        self._add(slot, 1)
        try:
            yield
        finally:
            if slot in self._slots:
                self._drop(slot)

    def _displace(self, *, sole: bool) -> None:
        """Take the slot of the request that waited longest; with ``sole``, of one alone for its name."""
        # T-REST-25: slow names that fill all slots do not keep a newcomer out.
        for slot in self._slots:
            if self._now() - slot.since < limits.REST_SLOT:
                break
            if not sole or (slot.name is not None and self._names[slot.name] == 1):
                self._drop(slot)
                slot.make_room()
                return
        raise RestError(ErrorCode.TOO_MANY_REQUESTS, "too many requests under way")

    def _drop(self, slot: _Slot) -> None:
        del self._slots[slot]
        self._add(slot, -1)

    def _add(self, slot: _Slot, count: int) -> None:
        for held, key in ((self._peers, slot.peer), (self._names, slot.name)):
            if key is not None:
                held[key] += count
                if not held[key]:
                    del held[key]
