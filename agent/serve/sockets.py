"""Unix socket addresses, and listening sockets that are visible only when they accept.

Kata stats the hub's socket and connects at once; a refused connection ends its agent
(kata_integration.md 1.3). So: bind to a temporary name in the same folder, listen, rename.
"""

from __future__ import annotations

import os
import secrets
import socket
from typing import Final

import msgspec

from agent.config import limits, urls
from agent.errors import AgentError, ErrorCode

SCHEME: Final = "unix://"
BACKLOG: Final = 128
SOCKET_MODE: Final = 0o600
FOLDER_MODE: Final = 0o755
TCP: Final = frozenset({socket.AF_INET, socket.AF_INET6})


class UnixAddress(msgspec.Struct, frozen=True):
    """Where a Unix socket is.

    Attributes:
        name: absolute path, or the abstract name without its ``@``.
        abstract: whether the name is in the abstract namespace.
    """

    name: str
    abstract: bool = False

    @property
    def target(self) -> str:
        """What ``bind`` and ``connect`` take."""
        return f"\0{self.name}" if self.abstract else self.name

    def __str__(self) -> str:
        return f"{SCHEME}{'@' if self.abstract else ''}{self.name}"


class BoundSocket(socket.socket):
    """A listening Unix socket that knows which file leads to it."""

    file: str | None = None
    identity: tuple[int, int] | None = None

    def is_named(self) -> bool:
        """Whether who connects at its path comes here."""
        return self.file is None or self.identity == _identity(self.file)

    def unlink(self) -> None:
        """Remove the socket file if it is still this socket's; call before closing.

        ``getsockname`` gives the temporary name, and by now the final name may be another process's.
        """
        # T-FILE-10: a successor's socket, or a file planted at the name, is not ours to remove.
        if self.file is None or self.identity != _identity(self.file):
            return
        try:
            os.unlink(self.file)  # noqa: PTH108
        except FileNotFoundError:
            return


def parse_address(text: str) -> UnixAddress:
    """``unix:///absolute/path`` or ``unix://@abstract-name``.

    Raises:
        AgentError: CONFIG_INVALID, also for paths above 107 bytes.
    """
    if wrong := urls.socket_problem(text):
        raise AgentError(ErrorCode.CONFIG_INVALID, f"{text!r}: {wrong}")
    name = text.removeprefix(SCHEME)
    return UnixAddress(name.removeprefix("@"), name.startswith("@"))


def listen_unix(
    address: UnixAddress | str, *, mode: int = SOCKET_MODE, kind: socket.SocketKind = socket.SOCK_STREAM
) -> BoundSocket:
    """A bound, listening, non-blocking socket.

    Whatever is at the final name is replaced, a live socket and a symbolic link included.

    Args:
        address: or its text.
        mode: permissions of the socket file.
        kind: stream, or SOCK_SEQPACKET.

    Raises:
        AgentError: CONFIG_INVALID.
    """
    where = parse_address(address) if isinstance(address, str) else address
    listener = BoundSocket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    try:
        if where.abstract:
            listener.bind(where.target)
            listener.listen(BACKLOG)
        else:
            _listen_at(listener, where.name, mode)
        listener.setblocking(False)  # noqa: FBT003
    except OSError as error:
        listener.close()
        raise AgentError(ErrorCode.CONFIG_INVALID, f"{where}: {os.strerror(error.errno or 0)}") from error
    return listener


def is_listening(sock: socket.socket) -> bool:
    """Whether it is a stream socket that listens; to be asked about one that another program made."""
    return sock.type == socket.SOCK_STREAM and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _listen_at(listener: BoundSocket, path: str, mode: int) -> None:
    parent, name = os.path.split(path)
    _make_folders(parent)
    folder = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    hidden = f".{secrets.token_hex(4)}"
    try:
        # The mode of an unbound socket is the upper bound for its file: there is no moment of wider access.
        os.fchmod(listener.fileno(), mode)
        bound = f"{parent.rstrip('/')}/{hidden}"
        if len(os.fsencode(bound)) > limits.SOCKET_PATH_MAX:
            bound = f"/proc/self/fd/{folder}/{hidden}"
        listener.bind(bound)
        try:
            os.chmod(hidden, mode, dir_fd=folder)
            status = os.stat(hidden, dir_fd=folder, follow_symlinks=False)
            listener.listen(BACKLOG)
            # T-FILE-11: rename replaces a planted link instead of following it.
            os.rename(hidden, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            os.unlink(hidden, dir_fd=folder)
            raise
    finally:
        os.close(folder)
    listener.file, listener.identity = path, (status.st_dev, status.st_ino)


def _make_folders(path: str) -> None:
    missing: list[str] = []
    while not os.path.isdir(path):  # noqa: PTH112
        missing.append(path)
        path = os.path.dirname(path)  # noqa: PTH120
    for folder in reversed(missing):
        try:
            os.mkdir(folder, FOLDER_MODE)  # noqa: PTH102
        except FileExistsError:
            continue  # another launcher was faster, or it is no folder: opening it tells


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
