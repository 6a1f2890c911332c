"""Fair shares of a bounded number of request slots: neither a peer nor a name may take them all."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agent.errors import ErrorCode
from agent.serve.rest.answers import RestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.serve.rest.guard import Peer


def share_key(peer: Peer) -> str:
    """Whose share a peer's requests count against: its user on a unix socket, its connection on TCP."""
    return peer.label if peer.uid is None else f"uid={peer.uid}"


class Shares:
    """The slots. Not thread-safe: they belong to one event loop.

    Args:
        slots: requests under way at a time.
        share: the most of them for one peer, and for one name.
    """

    def __init__(self, slots: int, share: int) -> None:
        self._slots = slots
        self._share = share
        self._used = 0
        self._peers: Counter[str] = Counter()
        self._names: Counter[str] = Counter()

    @contextmanager
    def slot(self, peer: str, name: str | None) -> Iterator[None]:
        """Hold one slot.

        Args:
            peer: from :func:`share_key`.
            name: of the resource; None when the request is for none.

        Raises:
            RestError: TOO_MANY_REQUESTS.
        """
        # T-REST-18: a bounded number of requests can hold memory; health and metrics stay reachable.
        if self._used >= self._slots:
            raise RestError(ErrorCode.TOO_MANY_REQUESTS, "too many requests under way")
        # T-REST-22: one peer leaves room for others.
        if self._peers[peer] >= self._share:
            raise RestError(ErrorCode.TOO_MANY_REQUESTS, "too many requests of one peer under way")
        # T-REST-23: a name the broker is slow with leaves room for other names.
        if name is not None and self._names[name] >= self._share:
            raise RestError(ErrorCode.TOO_MANY_REQUESTS, "too many requests for one name under way")
        self._add(peer, name, 1)
        try:
            yield
        finally:
            self._add(peer, name, -1)

    def _add(self, peer: str, name: str | None, count: int) -> None:
        self._used += count
        for held, key in ((self._peers, peer), (self._names, name)):
            if key is not None:
                held[key] += count
                if not held[key]:
                    del held[key]
