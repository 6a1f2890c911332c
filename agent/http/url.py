"""http(s) URLs: read strictly, and sent as they were written.

The host is judged by the rules that configurations are checked by, so that a URL is never good for one reader
and another place for the next.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

from agent.config import urls
from agent.secret import without

PORTS: Final = {"http": 80, "https": 443}

_MAX: Final = 16 * 1024
_URL: Final = re.compile(
    r"(?P<scheme>https?)://"
    r"(?:(?P<user>[A-Za-z0-9._~!$&'()*+,;=%-]*)(?P<colon>:(?P<password>[A-Za-z0-9._~!$&'()*+,;=:%-]*))?@)?"
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>[/?][!-\"$-\[\]-~]*)?",  # printable, no fragment, no backslash
    re.IGNORECASE | re.ASCII,
)


class Url(msgspec.Struct, frozen=True):
    """Where a request goes.

    Attributes:
        scheme: ``http`` or ``https``.
        host: a name or an address, lower case, an IPv6 address without brackets.
        port: 1 to 65535.
        target: path and query exactly as written; begins with ``/``.
        user: percent-decoded, UTF-8 or not; None when there are no credentials.
        password: as ``user``.
    """

    scheme: str
    host: str
    port: int
    target: str = "/"
    user: bytes | None = None
    password: bytes = b""

    @classmethod
    def parse(cls, text: str, *, credentials: bool = False) -> Url:
        """Read one.

        Args:
            text: at most 16 KiB, ASCII, without a fragment.
            credentials: whether ``user:password@`` may stand in it.

        Raises:
            ValueError: it is no such URL. The text is not repeated, since it can hold credentials.
        """
        found = _URL.fullmatch(text) if len(text) <= _MAX else None
        if found is None:
            raise ValueError("not an http(s) URL")
        scheme, host = found["scheme"].lower(), (found["six"] or found["name"]).lower()
        port = int(found["port"] or PORTS[scheme])
        # T-HTTP-40: "x@y", a number out of range or an odd host lead somewhere else with another reader.
        if urls.host_problem(host, bracketed=found["six"] is not None) or not 0 < port < 65536:
            raise ValueError("its host or port cannot be")
        if found["user"] is None:
            return cls(scheme, host, port, _target(found["target"]))
        if not credentials:
            raise ValueError("it carries credentials")
        user, password = unquote_to_bytes(found["user"]), unquote_to_bytes(found["password"] or "")
        return cls(scheme, host, port, _target(found["target"]), user, password)

    @property
    def secure(self) -> bool:
        """Whether it asks for TLS."""
        return self.scheme == "https"

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host without a final dot, and port: who answers."""
        return self.scheme, self.host.removesuffix("."), self.port

    @property
    def address(self) -> str:
        """Host and port, always both: the target of ``CONNECT``."""
        return f"{self._bracketed()}:{self.port}"

    @property
    def authority(self) -> str:
        """Value of ``Host``: without the port that the scheme means anyway."""
        return self._bracketed() if self.port == PORTS[self.scheme] else self.address

    def __str__(self) -> str:
        """Without credentials."""
        return f"{self.scheme}://{self.authority}{self.target}"

    def __repr__(self) -> str:
        return without(self, "user", "password")

    def _bracketed(self) -> str:
        host = self.host.removesuffix(".")
        return f"[{host}]" if ":" in host else host


def _target(written: str | None) -> str:
    if not written:
        return "/"
    return written if written.startswith("/") else f"/{written}"
