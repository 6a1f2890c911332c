"""Reading files that decide about trust: no symbolic link on the way, bounded, owned by us.

Threat model: T-FILE-1 (planted links), T-FILE-2 (files others may write), T-FILE-3 (oversized files).
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def read_trusted(path: str, limit: int) -> bytes:
    """The content of a regular file, opened component by component without following links.

    Args:
        path: absolute, or relative to the working directory; ``.`` and ``..`` are refused.
        limit: bytes; a larger file is an error, never cut.

    Raises:
        FileNotFoundError: nothing is there; the caller knows what that means.
        AgentError: FILE_UNSAFE (link, not a regular file, owner, mode, size, unreadable).
    """
    return read_beneath("/" if path.startswith("/") else ".", path.lstrip("/"), limit)


def read_beneath(root: str, name: str, limit: int) -> bytes:
    """Like :func:`read_trusted` for a name below ``root``, which is opened as it is.

    Raises:
        FileNotFoundError: ``root`` or the file is not there.
        AgentError: FILE_UNSAFE.
    """
    parts = PurePosixPath(name).parts
    shown = str(PurePosixPath(root, name))
    if not parts or name.startswith("/") or "\0" in name or any(p in {".", ".."} for p in name.split("/")):
        raise AgentError(ErrorCode.FILE_UNSAFE, f"{shown}: not a plain path below its folder")
    try:
        descriptor = _open_beneath(root, parts)
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = (
            "a symbolic link is on the way"
            if error.errno in {errno.ELOOP, errno.ENOTDIR}
            else os.strerror(error.errno or 0)
        )
        raise AgentError(ErrorCode.FILE_UNSAFE, f"{shown}: {reason}") from error
    try:
        _check(os.fstat(descriptor), shown, limit)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise AgentError(ErrorCode.FILE_UNSAFE, f"{shown}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise AgentError(ErrorCode.FILE_UNSAFE, f"{shown}: larger than {limit} bytes")
    return content


def descend(
    folder: int,
    parts: Sequence[str],
    *,
    make: bool = False,
    check: Callable[[os.stat_result], None] = lambda _: None,
) -> int:
    """The folder that ``parts`` lead to, opened part by part without following links (O_PATH).

    Args:
        folder: descriptor to begin at; closed here, whatever happens.
        parts: plain names.
        make: make folders that are missing, mode 0700.
        check: looks at each folder on the way; its exceptions pass.

    Raises:
        OSError: ELOOP or ENOTDIR for a link, and whatever else the system says.
    """
    try:
        for part in parts:
            try:
                deeper = os.open(part, _FOLDER, dir_fd=folder)
            except FileNotFoundError:
                if not make:
                    raise
                with suppress(FileExistsError):  # somebody else's turn came first; the next open looks at it
                    os.mkdir(part, 0o700, dir_fd=folder)
                deeper = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = deeper
            check(os.fstat(folder))
    except BaseException:
        os.close(folder)
        raise
    return folder


def _open_beneath(root: str, parts: tuple[str, ...]) -> int:
    folder = descend(os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), parts[:-1])
    try:
        # O_NONBLOCK: a planted FIFO must not hang the agent.
        return os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)


def _check(status: os.stat_result, shown: str, limit: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise AgentError(ErrorCode.FILE_UNSAFE, f"{shown}: not a regular file")
    if status.st_uid not in {0, os.geteuid()}:
        raise AgentError(ErrorCode.FILE_UNSAFE, f"{shown}: owned by user {status.st_uid}, not by root or us")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise AgentError(ErrorCode.FILE_UNSAFE, f"{shown}: others may write to it (chmod go-w)")
    if status.st_size > limit:
        raise AgentError(ErrorCode.FILE_UNSAFE, f"{shown}: larger than {limit} bytes")
