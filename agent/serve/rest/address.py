"""Where the REST API listens: a literal address, judged and bound, and the other one of ``localhost``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.config import limits, urls
from agent.errors import AgentError, ErrorCode
from agent.handover import listen_tcp, listen_twins, refusal

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence


def bind_tcp(address: str) -> list[socket.socket]:
    """Bind and listen on a literal ``IP:port``; ``[::]`` serves IPv4 as well.

    Args:
        address: as ``127.0.0.1:8006`` or ``[::1]:8006``. Port 0 takes a free one.

    Returns:
        The socket of that address. Of 127.0.0.1, 0.0.0.0 and [::1] also the other address of ``localhost``
        at the same port, unless this guest does not have it.

    Raises:
        AgentError: CONFIG_INVALID for a host name or anything else that is not a literal address, and
            for an address that cannot be bound, the other one too.
    """
    host, port = parse_bind(address)
    try:
        return listen_tcp(host, port, limits.REST_BACKLOG)
    except OSError as error:
        raise AgentError(ErrorCode.CONFIG_INVALID, refusal(error)) from None


def with_twins(listeners: Sequence[socket.socket]) -> list[socket.socket]:
    """Sockets that somebody else made, and those of :func:`bind_tcp` that are missing among them.

    Raises:
        AgentError: CONFIG_INVALID for an address that cannot be bound.
    """
    try:
        return [*listeners, *listen_twins(listeners, limits.REST_BACKLOG)]
    except OSError as error:
        raise AgentError(ErrorCode.CONFIG_INVALID, refusal(error)) from None


def parse_bind(address: str) -> tuple[str, int]:
    """Host and port of a literal ``IP:port``.

    Raises:
        AgentError: CONFIG_INVALID, anything else.
    """
    try:
        return urls.bind_address(address)
    except ValueError:
        raise AgentError(ErrorCode.CONFIG_INVALID, "the REST address is not a literal IP:port") from None
