"""The event log's folder: its files opened beneath a descriptor, for their owner only, one writer at a time.

Threat model: T-TEE-24 (SR-20).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from agent.errors import AgentError, ErrorCode
from agent.files import descend

if TYPE_CHECKING:
    from collections.abc import Iterator

_FILE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Folder:
    """An open folder that is ours. Files in it have mode 0600; every change is on the disk when it returns.

    Attributes:
        path: where it is, for messages.
    """

    def __init__(self, descriptor: int, path: str) -> None:
        self._at = descriptor
        self.path = path

    def read(self, name: str, limit: int) -> bytes | None:
        """A file's content; None when there is no such file.

        Raises:
            AgentError: FILE_UNSAFE.
        """
        with self._failing(name):
            try:
                file = self._open(name, os.O_RDONLY)
            except FileNotFoundError:
                return None
            with os.fdopen(file, "rb") as reader:
                content = reader.read(limit + 1)
        if len(content) > limit:
            raise AgentError(ErrorCode.FILE_UNSAFE, f"{self.path}/{name}: larger than {limit} bytes")
        return content

    def replace(self, name: str, content: bytes) -> None:
        """Put a whole file in place: whoever looks sees the old one or the new one, never a part.

        Raises:
            AgentError: FILE_UNSAFE; GUEST_EXHAUSTED, no space left.
        """
        temporary = f"{name}.new"
        with self._failing(name):
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self._at)
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, 0o600, dir_fd=self._at)
            try:
                _write(file, content, 0)
                os.fsync(file)
            finally:
                os.close(file)
            os.replace(temporary, name, src_dir_fd=self._at, dst_dir_fd=self._at)
            os.fsync(self._at)

    def write_at(self, name: str, offset: int, content: bytes) -> None:
        """Write at an offset of a file, which is made when it is not there.

        Raises:
            AgentError: as for :meth:`replace`.
        """
        with self._failing(name):
            file = self._open(name, os.O_WRONLY | os.O_CREAT)
            try:
                _write(file, content, offset)
                os.fsync(file)
            finally:
                os.close(file)
            os.fsync(self._at)

    def remove(self, name: str) -> None:
        """Remove a file; that it is not there is fine.

        Raises:
            AgentError: FILE_UNSAFE.
        """
        with self._failing(name), suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._at)
            os.fsync(self._at)

    def _open(self, name: str, flags: int) -> int:
        file = os.open(name, flags | _FILE, 0o600, dir_fd=self._at)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise AgentError(ErrorCode.FILE_UNSAFE, f"{self.path}/{name}: not a regular file")
            _owned(status, f"{self.path}/{name}")
            if status.st_mode & _OTHERS and status.st_uid == os.geteuid():
                os.fchmod(file, 0o600)
        except BaseException:
            os.close(file)
            raise
        return file

    @contextmanager
    def _failing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise problem(error, f"{self.path}/{name}") from error


@contextmanager
def opened(path: str, *, create: bool) -> Iterator[Folder]:
    """The folder at an absolute path, locked for one writer. No link on the way is followed.

    Args:
        path: absolute.
        create: make it, and what leads to it, with mode 0700.

    Raises:
        AgentError: FILE_UNSAFE, also when it is not there; DEVICE_BUSY, another process writes in it.
    """
    descriptor = _reach(path, create=create)
    try:
        _owned(os.fstat(descriptor), path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AgentError(ErrorCode.DEVICE_BUSY, f"{path}: another process writes the event log") from None
        yield Folder(descriptor, path)
    finally:
        os.close(descriptor)


def _reach(path: str, *, create: bool) -> int:
    parts = PurePosixPath(path).parts
    if not path.startswith("/") or "\0" in path or any(part in {".", ".."} for part in path.split("/")):
        raise AgentError(ErrorCode.FILE_UNSAFE, f"{path}: not a plain absolute path")
    try:
        folder = descend(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), parts[1:], make=create)
        try:
            # O_PATH descriptors can be neither locked nor synchronised.
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise problem(error, path) from error


def problem(error: OSError, path: str) -> AgentError:
    """FILE_UNSAFE or GUEST_EXHAUSTED for a failed system call."""
    code = ErrorCode.GUEST_EXHAUSTED if error.errno in _FULL else ErrorCode.FILE_UNSAFE
    reason = (
        "a symbolic link is on the way"
        if error.errno in {errno.ELOOP, errno.ENOTDIR}
        else os.strerror(error.errno or 0)
    )
    return AgentError(code, f"{path}: {reason}")


def _owned(status: os.stat_result, shown: str) -> None:
    # T-TEE-24: whoever can write the log can make evidence fail; whoever can read it learns what pods run.
    if status.st_uid not in {0, os.geteuid()}:
        raise AgentError(ErrorCode.FILE_UNSAFE, f"{shown}: owned by user {status.st_uid}, not by root or us")
    if status.st_mode & _OTHERS_WRITE:
        raise AgentError(ErrorCode.FILE_UNSAFE, f"{shown}: others may write to it (chmod go-w)")


def _write(file: int, content: bytes, offset: int) -> None:
    left = memoryview(content)
    while left:
        written = os.pwrite(file, left, offset)
        offset += written
        left = left[written:]
