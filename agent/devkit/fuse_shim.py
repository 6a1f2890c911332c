"""The process that mounts a simulated file system with FUSE and passes every question on.

``python -m agent.devkit.fuse_shim MOUNTPOINT SOCKET``. libfuse changes the working directory and takes
signals: that stays in here. The answers come from
:class:`agent.devkit.fuse.Mount`. When standard input ends, it unmounts and ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
import threading
from typing import Any

import mfusepy  # type: ignore[import-untyped]
import msgspec

from agent.devkit.fuse_limits import MESSAGE_MAX, READ_MAX

_INTERRUPT_POLL = 0.02


def main() -> int:
    """Mount, serve, unmount; the exit status."""
    mountpoint, address = sys.argv[1:3]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    mfusepy.FUSE(
        _Questions(address),
        mountpoint,
        foreground=True,
        direct_io=True,  # else reads end at st_size, which the kernel's attributes do not have
        fsname="coco-agent-devkit",
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
    )
    return 0


def _end_with_parent() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


class _Questions(mfusepy.Operations):  # type: ignore[misc]  # mfusepy is not typed
    """One message per question. No attribute may be named as a FUSE operation that is not meant."""

    use_ns = True

    def __init__(self, address: str) -> None:
        self._address = address

    def _ask(self, name: str, *arguments: object) -> Any:  # noqa: ANN401 - by the kind of question
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stream:
            try:
                stream.connect(self._address)
                stream.sendall(msgspec.msgpack.encode([name, list(arguments)]))
                answer = self._answer(stream)
            except OSError:
                raise mfusepy.FuseOSError(errno.EIO) from None
        if not answer:
            raise mfusepy.FuseOSError(errno.EIO)
        code, value = msgspec.msgpack.decode(answer)
        if code:
            raise mfusepy.FuseOSError(code)
        return value

    @staticmethod
    def _answer(stream: socket.socket) -> bytes:
        # A killed caller stays until its question is answered; the kernel then says the question is dropped.
        stream.settimeout(_INTERRUPT_POLL)
        while True:
            try:
                return stream.recv(MESSAGE_MAX)
            except TimeoutError:
                if _interrupted():
                    return msgspec.msgpack.encode([errno.EINTR, None])

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        """Mode, size and links of a path."""
        del fh
        mode, size, links = self._ask("getattr", path)
        owner = {"st_uid": os.getuid(), "st_gid": os.getgid()}
        return {"st_mode": mode, "st_size": size, "st_nlink": links, **owner}

    def readdir(self, path: str, fh: int) -> list[str]:
        """Names in a folder."""
        del fh
        return [".", "..", *self._ask("readdir", path)]

    def mkdir(self, path: str, mode: int) -> int:
        """Make a folder."""
        self._ask("mkdir", path, mode)
        return 0

    def rmdir(self, path: str) -> int:
        """Remove a folder."""
        self._ask("rmdir", path)
        return 0

    def unlink(self, path: str) -> int:
        """Refused: attributes go with their folder."""
        self._ask("unlink", path)
        return 0

    def create(self, path: str, mode: int, fi: object = None) -> int:
        """Refused: only the kernel makes attributes."""
        del fi
        return int(self._ask("create", path, mode))

    def open(self, path: str, flags: int) -> int:
        """A handle."""
        return int(self._ask("open", path, flags))

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        """What O_TRUNC asks for first; attributes have no length to cut."""
        del fh
        self._ask("truncate", path, length)
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """A piece of an attribute."""
        del path
        piece: bytes = self._ask("read", fh, min(size, READ_MAX), offset)
        return piece

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """A piece into an attribute."""
        del path
        return int(self._ask("write", fh, data[:READ_MAX], offset))

    def flush(self, path: str, fh: int) -> int:
        """A descriptor is closed; its close() waits for this, not for release."""
        del path
        self._ask("flush", fh)
        return 0

    def release(self, path: str, fh: int) -> int:
        """The last descriptor of a handle is gone."""
        del path
        self._ask("release", fh)
        return 0


def _interrupted() -> bool:
    # Has no public name, and knows this thread's request.
    return bool(mfusepy._libfuse.fuse_interrupted())  # noqa: SLF001


if __name__ == "__main__":
    sys.exit(main())
