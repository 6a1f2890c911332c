"""File systems of our own making, mounted with FUSE: what the kernel would answer, answered by Python.

A child process speaks with FUSE (:mod:`agent.devkit.fuse_shim`); the answers are made here, in threads, so
that a test sees and sets the state directly.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

import msgspec

from agent.devkit.fuse_limits import MESSAGE_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPERATIONS: Final = frozenset(
    {"getattr", "readdir", "mkdir", "rmdir", "unlink", "create", "open", "truncate"}
    | {"read", "write", "flush", "release"}
)
_MOUNT_SECONDS: Final = 20.0
_END_SECONDS: Final = 5.0


class Tree(Protocol):
    """A file system: every method answers or raises OSError with the errno for the caller."""

    def getattr(self, path: str) -> tuple[int, int, int]:
        """Mode with its type, size in bytes, links."""

    def readdir(self, path: str) -> list[str]:
        """Names in a folder."""

    def mkdir(self, path: str, mode: int) -> None:
        """Make a folder."""

    def rmdir(self, path: str) -> None:
        """Remove a folder."""

    def unlink(self, path: str) -> None:
        """Remove a file."""

    def create(self, path: str, mode: int) -> int:
        """Make and open a file."""

    def open(self, path: str, flags: int) -> int:
        """A handle for a file; ``flags`` are those of the system call."""

    def truncate(self, path: str, length: int) -> None:
        """Cut a file."""

    def read(self, handle: int, size: int, offset: int) -> bytes:
        """At most ``size`` bytes; empty at the end."""

    def write(self, handle: int, data: bytes, offset: int) -> int:
        """How many bytes were taken."""

    def flush(self, handle: int) -> None:
        """A descriptor of the handle is being closed."""

    def release(self, handle: int) -> None:
        """The handle is gone."""


def refuse(code: int) -> NoReturn:
    """Answer with an errno."""
    raise OSError(code, os.strerror(code))


def access(mode: int, flags: int) -> None:
    """Refuse an open that the mode does not allow to anybody, as configfs and sysfs do even for root.

    Raises:
        OSError: EACCES.
    """
    kind = flags & os.O_ACCMODE
    reads, writes = kind in {os.O_RDONLY, os.O_RDWR}, kind in {os.O_WRONLY, os.O_RDWR}
    if (reads and not mode & 0o444) or (writes and not mode & 0o222):
        refuse(errno.EACCES)


def folder(entries: int = 0) -> tuple[int, int, int]:
    """The attributes of a folder."""
    return stat.S_IFDIR | 0o755, 0, 2 + entries


def unavailable() -> str | None:
    """Why nothing can be mounted here; None when it can."""
    if importlib.util.find_spec("mfusepy") is None:
        return "mfusepy is not installed (the extra 'devkit')"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "no /dev/fuse that we may open"
    if shutil.which("fusermount3") is None:
        return "no fusermount3 (Debian: fuse3)"
    return None


@contextmanager
def mounted(tree: Tree, mountpoint: str | Path) -> Iterator[None]:
    """Mount a tree; unmounted when the body ends, however it ends, and also when this process is killed.

    Args:
        tree: answers the questions, from several threads at once.
        mountpoint: is made if it is not there.

    Raises:
        RuntimeError: FUSE is not available, or the mount failed.
    """
    reason = unavailable()
    if reason is not None:
        raise RuntimeError(f"cannot simulate a file system: {reason}")
    point = Path(mountpoint).resolve()
    point.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="coco-fuse-") as own:
        server = _Answers(tree, f"{own}/questions")
        command = [sys.executable, "-m", "agent.devkit.fuse_shim", str(point), server.address]
        # A session of its own: Ctrl-C in a terminal reaches us, and we unmount.
        shim = subprocess.Popen(  # noqa: S603 - this interpreter, our module
            command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            _wait_until_mounted(point, shim)
            yield
        finally:
            server.end()
            _unmount(point, shim)


def _wait_until_mounted(point: Path, shim: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _MOUNT_SECONDS
    while not os.path.ismount(point):
        if shim.poll() is not None:
            said = shim.stderr.read().decode(errors="replace") if shim.stderr else ""
            raise RuntimeError(f"FUSE did not mount {point}: {said.strip()[-400:]}")
        if time.monotonic() > until:
            raise RuntimeError(f"FUSE did not mount {point} within {_MOUNT_SECONDS:.0f} s")
        time.sleep(0.005)


def _unmount(point: Path, shim: subprocess.Popen[bytes]) -> None:
    if shim.stdin is not None:
        shim.stdin.close()
    try:
        shim.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        shim.kill()
        shim.wait()
    if shim.stderr is not None:
        shim.stderr.close()
    if _still_there(point):
        # Lazily: somebody may still stand in it.
        subprocess.run(["fusermount3", "-u", "-z", str(point)], check=False, capture_output=True)  # noqa: S603, S607


def _still_there(point: Path) -> bool:
    try:
        point.lstat()
    except OSError as error:
        # A shim that was killed leaves its mount behind, which ismount() takes for no mount at all.
        return error.errno == errno.ENOTCONN
    return os.path.ismount(point)


class _Answers:
    """Listens for the shim's questions; each is a connection and a thread."""

    def __init__(self, tree: Tree, address: str) -> None:
        self.address = address
        self._tree = tree
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listening.bind(address)
        self._listening.listen(128)
        threading.Thread(target=self._accept, name="fuse", daemon=True).start()

    def end(self) -> None:
        # shutdown wakes accept(); close alone does not.
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(stream,), name="fuse-answer", daemon=True).start()

    def _answer(self, stream: socket.socket) -> None:
        with stream, suppress(OSError):
            name, arguments = msgspec.msgpack.decode(stream.recv(MESSAGE_MAX))
            try:
                value = getattr(self._tree, name)(*arguments) if name in _OPERATIONS else refuse(errno.ENOSYS)
                answer = [0, value]
            except OSError as error:
                answer = [error.errno or errno.EIO, None]
            stream.sendall(msgspec.msgpack.encode(answer))
