"""Writing credentials below one folder: no link followed on the way, whole files only, readable by us alone.

Threat model: T-SEAL-18 (planted links and folders), T-SEAL-19 (a path outside of the folder).
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from typing import TYPE_CHECKING, Final

from agent.errors import AgentError, ErrorCode
from agent.files import descend

if TYPE_CHECKING:
    from agent.secret import Secret

FILE_MODE: Final = 0o600
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def below(folder: str, path: str) -> tuple[str, ...]:
    """The segments of ``path`` below ``folder``; both are absolute.

    Raises:
        AgentError: FILE_UNSAFE, when it is not below, by whole segments, or not plain.
    """
    # T-SEAL-19: upstream compares texts, so .../cdh/kbsfoo passes there (cdh.md 3.6).
    wanted, parts = folder.split("/"), path.split("/")
    inside = parts[: len(wanted)] == wanted and len(parts) > len(wanted)
    if not inside or "\0" in path or any(part in {"", ".", ".."} for part in parts[1:]):
        raise AgentError(ErrorCode.FILE_UNSAFE, f"not a plain path below {folder}")
    return tuple(parts[len(wanted) :])


def place(root: str, folder: str, path: str, content: Secret) -> bool:
    """Put ``content`` at ``path``, mode 0600; readers see the old file or the whole new one.

    Missing folders are made, mode 0700. A file that is there is replaced, unless it is ours and holds the
    same already. A link that is there is replaced and not followed.

    Args:
        root: what ``/`` stands for; "/" outside of tests. Opened as it is.
        folder: absolute; nothing outside of it is written.
        path: absolute, below ``folder``.
        content: any size.

    Returns:
        Whether something was written.

    Raises:
        AgentError: FILE_UNSAFE (not below the folder, a link or a foreign folder on the way, a place that
            cannot be written to), GUEST_EXHAUSTED (no room).
    """
    segments = below(folder, path)
    try:
        start = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        way = (*folder.strip("/").split("/"), *segments[:-1])
        holder = descend(start, way, make=True, check=_check_folder)
        try:
            if _holds(holder, segments[-1], content):
                return False
            _replace(holder, segments[-1], content)
        finally:
            os.close(holder)
    except OSError as error:
        raise _refusal(error) from error
    return True


def _check_folder(status: os.stat_result) -> None:
    # T-SEAL-18: whoever may write to a folder on the way can put another file in this one's place.
    foreign = status.st_uid not in {0, os.geteuid()}
    shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
    if foreign or shared:
        raise AgentError(ErrorCode.FILE_UNSAFE, "others may write to a folder on the way (chmod go-w)")


def _holds(folder: int, name: str, content: Secret) -> bool:
    """Whether the file is there, ours alone, with this content."""
    try:
        # O_NONBLOCK: a planted FIFO must not hang the agent.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=folder)
    except OSError:
        return False
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        fit = (
            stat.S_ISREG(status.st_mode)
            and stat.S_IMODE(status.st_mode) == FILE_MODE
            and status.st_uid == os.geteuid()
            and status.st_nlink == 1
            and status.st_size == len(content)
        )
        return fit and secrets.compare_digest(file.read(len(content) + 1), content.reveal())


def _replace(folder: int, name: str, content: Secret) -> None:
    temporary = f".coco-{secrets.token_hex(8)}"
    descriptor = os.open(temporary, _NEW, FILE_MODE, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, FILE_MODE)  # whatever the umask
            file.write(content.reveal())
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(temporary, dir_fd=folder)
        raise


def _refusal(error: OSError) -> AgentError:
    reason = os.strerror(error.errno or 0)
    if error.errno in {errno.ELOOP, errno.ENOTDIR}:
        return AgentError(ErrorCode.FILE_UNSAFE, "a link, or something that is no folder, is on the way")
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE}:
        return AgentError(ErrorCode.GUEST_EXHAUSTED, f"writing a credential: {reason}")
    return AgentError(ErrorCode.FILE_UNSAFE, f"writing a credential: {reason}")
