"""Who may use the REST API: programs in this guest, talking to it directly.

A pod's loopback is shared by all its containers, so this guard does not tell them apart. It keeps out
the network, pages in a browser, and requests that a proxy or a server in the pod was talked into.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from agent.errors import ErrorCode
from agent.serve.rest.answers import RestError
from agent.serve.rest.forwarding import tells_of_proxy

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

_HOST: Final = re.compile(
    r"(?P<name>\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,255})(?::(?P<port>[0-9]{1,5}))?"
)
_LOOPBACK_4: Final = ipaddress.IPv4Network("127.0.0.0/8")
_LOOPBACK_6: Final = ipaddress.IPv6Address("::1")
_OWN_SITE: Final = frozenset({"same-origin", "same-site", "none"})


class Peer(msgspec.Struct, frozen=True):
    """The other end of a connection.

    Attributes:
        local: in this guest: a loopback address or a unix socket.
        label: ``127.0.0.1:40000`` or ``uid=0,pid=17``, for the audit log.
        uid: its user on a unix socket; None on TCP, where the kernel does not say.
    """

    local: bool
    label: str
    uid: int | None = None


def peer_of(transport: asyncio.BaseTransport | None) -> Peer:
    """Look at a connection's other end; one that cannot be named is not local."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    address = transport.get_extra_info("peername") if transport is not None else None
    if sock is not None and sock.family == socket.AF_UNIX:
        pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return Peer(local=True, label=f"uid={uid},pid={pid}", uid=uid)
    if isinstance(address, tuple) and len(address) >= 2:
        host = str(address[0])
        return Peer(is_loopback(host), f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}")
    return Peer(local=False, label="unknown")


def is_loopback(address: str) -> bool:
    """Whether a literal address is in 127.0.0.0/8, ::1 or ::ffff:127.0.0.0/104.

    Upstream refuses the last kind, so a dual-stack socket did not serve IPv4 (cdh.md 1.2).
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        return ip == _LOOPBACK_6 or (ip.ipv4_mapped is not None and ip.ipv4_mapped in _LOOPBACK_4)
    return ip in _LOOPBACK_4


@lru_cache(maxsize=64)
def is_own_host(text: str, extra_hosts: tuple[str, ...]) -> bool:
    """Whether ``host`` or ``host:port`` names this guest.

    A name may end with the root's dot (RFC 1034 3.1): it is the same host, and clients send it as it was
    typed. An address may not (RFC 3986 3.2.2), nor may it have a zone or be written in another way.

    Args:
        text: a Host header, or the authority of an Origin or of a request target. Any port will do.
        extra_hosts: further names, exact but for case and a last dot, without port; IPv6 addresses in
            brackets.
    """
    match = _HOST.fullmatch(text)
    if match is None or int(match["port"] or 0) > 65535:
        return False
    name = match["name"].lower()
    if name.removesuffix(".") in {"localhost", *(host.lower().removesuffix(".") for host in extra_hosts)}:
        return True
    try:
        if name.startswith("["):
            return ipaddress.IPv6Address(name[1:-1]) == _LOOPBACK_6
        return ipaddress.IPv4Address(name) in _LOOPBACK_4
    except ValueError:
        return False


def check_peer(peer: Peer) -> None:
    """Refuse callers outside this guest, whatever address the socket is bound to.

    Raises:
        RestError: PEER_REFUSED.
    """
    # T-REST-11: only loopback and unix-socket peers, also when someone binds another address.
    if not peer.local:
        raise RestError(ErrorCode.PEER_REFUSED, "the peer is not local")


def check_host(hosts: Sequence[str], extra_hosts: tuple[str, ...]) -> None:
    """Require exactly one Host header that names this guest, in HTTP/1.0 as well.

    Args:
        hosts: every Host header of the request.
        extra_hosts: see :func:`is_own_host`.

    Raises:
        RestError: INVALID_REQUEST for none or several, PEER_REFUSED for another host's name.
    """
    # T-REST-30: without Host nothing shows whom a request was meant for that an old proxy made.
    if len(hosts) != 1:
        raise RestError(ErrorCode.INVALID_REQUEST, "the request does not have exactly one Host header")
    # T-REST-12: DNS rebinding. The name is matched as a whole, so no look-alike passes.
    if not is_own_host(hosts[0], extra_hosts):
        raise RestError(ErrorCode.PEER_REFUSED, "the Host header names another host")


def check_authority(authority: str | None, extra_hosts: tuple[str, ...]) -> None:
    """Require that a request target in absolute-form names this guest.

    Args:
        authority: of the target; None in origin-form.
        extra_hosts: see :func:`is_own_host`.

    Raises:
        RestError: PEER_REFUSED for another host's name, user information, or none.
    """
    # T-REST-31: some readers go by the target's host and others by Host, so both have to be ours.
    if authority is not None and not is_own_host(authority, extra_hosts):
        raise RestError(ErrorCode.PEER_REFUSED, "the request target names another host")


def check_direct(headers: Mapping[str, Sequence[str]]) -> None:
    """Refuse requests that a proxy passed on.

    Args:
        headers: by lower-case name.

    Raises:
        RestError: PEER_REFUSED.
    """
    # T-REST-13: server-side request forgery. A proxy's caller is somewhere else.
    if any(map(tells_of_proxy, headers)):
        raise RestError(ErrorCode.PEER_REFUSED, "the request was forwarded by a proxy")


def check_browser(headers: Mapping[str, Sequence[str]], extra_hosts: tuple[str, ...]) -> None:
    """Refuse requests that a browser makes for another site's page.

    Args:
        headers: by lower-case name.
        extra_hosts: see :func:`is_own_host`.

    Raises:
        RestError: PEER_REFUSED.
    """
    # T-REST-14: cross-site requests. A browser cannot be made to leave these headers out.
    for origin in headers.get("origin", ()):
        scheme, separator, authority = origin.partition("://")
        if not separator or scheme not in {"http", "https"} or not is_own_host(authority, extra_hosts):
            raise RestError(ErrorCode.PEER_REFUSED, "the Origin header names another site")
    for site in headers.get("sec-fetch-site", ()):
        if site.strip().lower() not in _OWN_SITE:
            raise RestError(ErrorCode.PEER_REFUSED, "a browser made this request for another site")
