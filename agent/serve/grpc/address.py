"""Where a gRPC server listens.

grpcio takes no listening socket of ours, so a Unix socket is bound by it in a private folder, and moved
to its name once it accepts (compare ``agent/serve/sockets.py``).
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.serve.sockets import SCHEME, SOCKET_MODE, parse_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.serve.sockets import UnixAddress


class Listening(msgspec.Struct, frozen=True):
    """An address that is bound.

    Attributes:
        shown: as a client writes it, with the port that was really bound.
        file: the socket file; empty for other addresses.
        identity: device and inode of ``file``.
    """

    shown: str
    file: str = ""
    identity: tuple[int, int] = (0, 0)

    def unlink(self) -> None:
        """Remove the socket file if it is still this server's."""
        # T-IMGKEY-31: a successor's socket, or a file planted at the name, is not ours to remove.
        if not self.file:
            return
        try:
            status = os.lstat(self.file)
        except OSError:
            return
        if (status.st_dev, status.st_ino) == self.identity:
            Path(self.file).unlink(missing_ok=True)


def listen(address: str, add: Callable[[str], int]) -> Listening:
    """Bind an address.

    Args:
        address: loopback ``IP:port``, ``unix:///path`` or ``unix://@abstract``.
        add: binds and listens at an address in grpcio's spelling; the port, or 0; RuntimeError if it cannot.

    Raises:
        AgentError: CONFIG_INVALID.
    """
    try:
        if not address.startswith(SCHEME):
            return _tcp(address, add)
        where = parse_address(address)
        return _abstract(where, add) if where.abstract else _file(where, add)
    except RuntimeError:
        raise _refused(address, "cannot be bound; is it in use?") from None
    except OSError as error:
        raise _refused(address, os.strerror(error.errno or 0)) from None


def _tcp(address: str, add: Callable[[str], int]) -> Listening:
    host, _, _ = address.rpartition(":")
    try:
        loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = False
    # T-IMGKEY-32: it answers whoever connects, so only this machine may.
    if not loopback:
        raise _refused(address, "is not a loopback IP:port, nor unix://<path>")
    port = add(address)
    if not port:
        raise RuntimeError
    return Listening(f"{host}:{port}")


def _abstract(where: UnixAddress, add: Callable[[str], int]) -> Listening:
    add(f"unix-abstract:{where.name}")
    return Listening(str(where))


def _file(where: UnixAddress, add: Callable[[str], int]) -> Listening:
    parent = Path(where.name).parent
    parent.mkdir(parents=True, exist_ok=True)
    hidden = parent / f".{secrets.token_hex(4)}"
    # T-IMGKEY-33: grpcio cannot be told a mode. Until the socket has its own, nobody else gets to it.
    hidden.mkdir(mode=0o700)
    folder = os.open(hidden, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        bound = hidden / secrets.token_hex(4)
        short = len(os.fsencode(bound)) <= limits.SOCKET_PATH_MAX
        add(f"unix:{bound if short else f'/proc/self/fd/{folder}/{bound.name}'}")
        bound.chmod(SOCKET_MODE)
        status = bound.lstat()
        # Replaces a planted link instead of following it.
        bound.rename(where.name)
    finally:
        os.close(folder)
        hidden.rmdir()
    return Listening(str(where), where.name, (status.st_dev, status.st_ino))


def _refused(address: str, reason: str) -> AgentError:
    return AgentError(ErrorCode.CONFIG_INVALID, f"{address!r}: {reason}")
