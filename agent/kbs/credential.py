"""What stands for an attested guest at the broker besides the token: the session of the handshake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.secret import Secret


@dataclass(frozen=True, slots=True)
class SessionRef:
    """A session at one endpoint (kbs_protocol.md 1.5).

    Attributes:
        cookie: value of ``kbs-session-id``; as good as a token.
        endpoint: base URL of the endpoint that made it; worth nothing at another one.
        until: boot clock, in seconds, when the broker forgets it.
    """

    cookie: Secret
    endpoint: str
    until: float
