"""Addresses in configurations: said to be wrong before a pod waits 50 seconds to find out.

``cc_kbc::http:10.0.0.1`` is accepted by upstream and ends in time-outs (user_pains.md row 11).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from agent.config import limits

_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_PATH: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/%-]*")
_USER: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=%-]+(?::[A-Za-z0-9._~!$&'()*+,;=%-]*)?")
_BRACKETED: Final = re.compile(r"\[[0-9A-Fa-f:.]+\](?::[0-9]+)?")
_HOST_MAX: Final = 253
_PORT_MAX: Final = 65535
UNIX: Final = "unix://"


def problem(text: str, *, credentials: bool = False) -> str:
    """Why an http(s) base URL cannot work; empty when nothing is wrong.

    Args:
        text: the URL.
        credentials: whether ``user:password@`` is allowed (proxies).
    """
    # T-CONF-4: the answer never repeats the text, which may hold credentials.
    return _spelling_problem(text) or _parts_problem(text, credentials=credentials)


def plain_problem(text: str) -> str:
    """Why an ``http://`` base URL of a service on the same host cannot work; empty when nothing is wrong."""
    return problem(text) or _first(((not is_plain_http(text), "is not http://"),))


def proxy_problem(text: str) -> str:
    """Why a proxy's URL cannot work, ``http(s)://[user:password@]host[:port]``; empty when it can."""
    if wrong := problem(text, credentials=True):
        return wrong
    parts = urlsplit(text)
    return _first(
        (
            (parts.path not in {"", "/"}, "has a path, which a proxy has not"),
            (
                "@" in parts.netloc and not _USER.fullmatch(parts.netloc.rpartition("@")[0]),
                "has a user or password with characters that must be percent-encoded",
            ),
        )
    )


def _first(checks: tuple[tuple[bool, str], ...]) -> str:
    return next((message for wrong, message in checks if wrong), "")


def _spelling_problem(text: str) -> str:
    broken = re.match(r"(https?):(?!//)", text, re.IGNORECASE)
    return _first(
        (
            (len(text) > limits.URL_MAX, f"longer than {limits.URL_MAX} characters"),
            (
                any(c.isspace() or not c.isprintable() for c in text),
                "has white space or control characters in it",
            ),
            (
                not text.isascii(),
                "has characters outside of ASCII; write an international host name in its xn-- form",
            ),
            (broken is not None, f"has no '//' after '{broken[1].lower() if broken else ''}:'"),
            ("://" not in text, "has no scheme; it starts with https:// or http://"),
            ("?" in text or "#" in text, "has a query or a fragment"),
            (
                re.search(r"\[[^\]]*%", text) is not None,
                "has an IPv6 zone, which a URL cannot carry; use another address",
            ),
        )
    )


def _parts_problem(text: str, *, credentials: bool) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
        host = parts.hostname or ""
    except ValueError:
        return "has a host or port that is not one; an IPv6 address stands in brackets"
    return _first(
        (
            (parts.scheme not in {"http", "https"}, "has another scheme than https or http"),
            (
                not credentials and "@" in parts.netloc,
                "carries credentials, and whoever reads the configuration reads them",
            ),
            (port == 0 or parts.netloc.endswith(":"), "has no port number after ':'"),
            (
                "[" in parts.netloc and not _BRACKETED.fullmatch(parts.netloc.rpartition("@")[2]),
                "has brackets without an IPv6 address in them",
            ),
            (not _PATH.fullmatch(parts.path), "has characters in its path that do not belong there"),
        )
    ) or host_problem(host, bracketed="[" in parts.netloc)


def host_problem(host: str, *, bracketed: bool) -> str:
    """Why a URL's host cannot work; empty when nothing is wrong.

    Args:
        host: a name or an address, without brackets.
        bracketed: brackets stood around it.
    """
    labels = host.removesuffix(".").split(".")
    named = len(host) <= _HOST_MAX and all(_LABEL.fullmatch(label) for label in labels)
    numbers = re.fullmatch(r"[0-9.]+", host) is not None
    return _first(
        (
            (not host, "names no host"),
            (bracketed and not _is_ip(host, 6), "has brackets without an IPv6 address in them"),
            (not bracketed and not named, "has a host that is neither a name nor an IP address"),
            (
                numbers and not bracketed and not _is_ip(host, 4),
                "has a host that looks like an IPv4 address and is none",
            ),
        )
    )


def bind_address(text: str) -> tuple[str, int]:
    """Host and port of a literal ``IP:port``, IPv6 in brackets and without a zone.

    Raises:
        ValueError: anything else.
    """
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    digits = port.isascii() and port.isdigit() and len(port) <= 5
    if (address.version == 6) != bracketed or "%" in host or not digits or int(port) > _PORT_MAX:
        raise ValueError("not a literal IP:port")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address), int(port)  # to the kernel a mapped address is the IPv4 address


def _is_ip(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def host(url: str) -> str:
    """The URL's host, lower case and without brackets; empty when it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine; False for names other than localhost."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_plain_http(url: str) -> bool:
    """Whether the URL is http, not https."""
    return url.lower().startswith("http://")


def redact(url: str) -> str:
    """A URL without user, password, query and fragment; ``***`` if it cannot be taken apart."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
    if not parts.scheme or not parts.netloc:
        return "***" if "@" in url or "=" in url else url
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def socket_problem(text: str) -> str:
    """Why a socket address cannot work; empty when nothing is wrong.

    Accepted: ``unix:///absolute/path`` and ``unix://@abstract``, at most 107 bytes after the scheme.
    """
    if not text.startswith(UNIX):
        path = text.removeprefix("unix:") if text.startswith("unix:/") else text
        example = f"; write {UNIX}<absolute path>" if path.startswith("/") else ""
        return f"does not start with {UNIX}{example}"
    name = text.removeprefix(UNIX)
    abstract = name.startswith("@")
    if not name.removeprefix("@") or name.endswith("/") or not name.isprintable():
        return "names no socket file"
    if not abstract and not name.startswith("/"):
        return f"is not absolute; there are three slashes in {UNIX}/run/..."
    size = len(name.removeprefix("@").encode("utf-8", "surrogateescape"))
    if size > limits.SOCKET_PATH_MAX:
        return f"is {size} bytes long; a socket's path has at most {limits.SOCKET_PATH_MAX}"
    return ""
