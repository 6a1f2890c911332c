"""Where the REST API listens: a literal address, judged and bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.config import limits, urls
from agent.errors import AgentError, ErrorCode
from agent.handover import listen_tcp

if TYPE_CHECKING:
    import socket


def bind_tcp(address: str) -> socket.socket:
    """Bind and listen on a literal ``IP:port``; ``[::]`` serves IPv4 as well.

    Args:
        address: as ``127.0.0.1:8006`` or ``[::1]:8006``. Port 0 takes a free one.

    Raises:
        AgentError: CONFIG_INVALID for a host name or anything else that is not a literal address, and
            for an address that cannot be bound.
    """
    host, port = parse_bind(address)
    try:
        return listen_tcp(host, port, limits.REST_BACKLOG)
    except OSError as error:
        raise AgentError(
            ErrorCode.CONFIG_INVALID, f"the REST address cannot be bound: {error.strerror}"
        ) from None


def parse_bind(address: str) -> tuple[str, int]:
    """Host and port of a literal ``IP:port``.

    Raises:
        AgentError: CONFIG_INVALID, anything else.
    """
    try:
        return urls.bind_address(address)
    except ValueError:
        raise AgentError(ErrorCode.CONFIG_INVALID, "the REST address is not a literal IP:port") from None
