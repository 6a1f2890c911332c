"""Handshake sessions (kbs_protocol.md 1.5)."""

from __future__ import annotations

import base64
import os
import uuid
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

import msgspec

from agent.secret import without

if TYPE_CHECKING:
    from agent.clock import Clock

COOKIE: Final = "kbs-session-id"
MAX_SESSIONS: Final = 4096
"""Anyone who reaches the port opens sessions; the oldest makes room."""


class Session(msgspec.Struct):
    """One handshake.

    Attributes:
        id: the cookie's value, 32 hex digits.
        nonce: standard base64 of 32 random bytes.
        tee: what the request announced.
        hash_name: of report data.
        expires: seconds since the Unix epoch.
        token: set once attested.
    """

    id: str
    nonce: str
    tee: str
    hash_name: str
    expires: float
    token: str = ""

    def __repr__(self) -> str:
        return without(self, "id", "token")

    def set_cookie(self) -> str:
        """A Set-Cookie value: ``Expires`` is the only attribute."""
        return f"{COOKIE}={self.id}; Expires={formatdate(self.expires, usegmt=True)}"


def new_nonce() -> str:
    """Standard base64 of 32 random bytes."""
    return base64.b64encode(os.urandom(32)).decode("ascii")


class Sessions:
    """All live sessions. Time is the wall clock's, as the cookie's is."""

    def __init__(self, clock: Clock, life: float) -> None:
        self._clock = clock
        self._life = life
        self._held: dict[str, Session] = {}

    def open(self, tee: str, hash_name: str) -> Session:
        """A new session; its life counts from here and attesting does not extend it."""
        now = self._clock.wall()
        self._held = {key: held for key, held in self._held.items() if held.expires > now}
        # T-DEV-3: requests without authentication must not fill the memory.
        while len(self._held) >= MAX_SESSIONS:
            del self._held[next(iter(self._held))]
        session = Session(uuid.uuid4().hex, new_nonce(), tee, hash_name, now + self._life)
        self._held[session.id] = session
        return session

    def find(self, cookie: str) -> Session | None:
        """The live session of a cookie."""
        session = self._held.get(cookie)
        return session if session is not None and session.expires > self._clock.wall() else None

    def forget(self) -> None:
        """Drop all, as a restart with in-memory storage does."""
        self._held.clear()

    def __len__(self) -> int:
        return len(self._held)
