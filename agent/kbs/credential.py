"""What stands for an attested guest at the broker besides the token: the session of the handshake."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from agent.kbs.cookies import Jar

if TYPE_CHECKING:
    from agent.secret import Secret


COOKIE_VALUE: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,256}", re.ASCII)
"""What a session id may look like; Trustee's are 32 hexadecimal digits."""


class SessionRef(msgspec.Struct):
    """A session at one endpoint (kbs_protocol.md 1.5), as its latest answer left it.

    Only :mod:`agent.kbs.headers` changes it, with what that endpoint answers.

    Attributes:
        cookie: value of ``kbs-session-id``; as good as a token.
        endpoint: base URL of the endpoint that made it; worth nothing at another one.
        until: boot clock, in seconds, when the broker forgets it.
        jar: the other cookies of that endpoint: a balancer leads to the broker that has the session by them.
    """

    cookie: Secret
    endpoint: str
    until: float
    jar: Jar = Jar()

    def wipe(self) -> None:
        """Overwrite all cookies."""
        self.cookie.wipe()
        self.jar.wipe()
