"""TDX measurement registers without TDX: sysfs of Linux 6.16 in FUSE (attesters.md 3.3).

Mount it at ``<sysroot>/sys/devices/virtual/misc/tdx_guest/measurements``.
"""

from __future__ import annotations

import errno
import hashlib
import stat
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.devkit import fuse
from agent.devkit.fuse import refuse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MEASUREMENTS: Final = "sys/devices/virtual/misc/tdx_guest/measurements"
"""Where it belongs below a simulated root."""

SIZE: Final = 48
RTMRS: Final = tuple(f"rtmr{number}:sha384" for number in range(4))
NAMES: Final = (*RTMRS, "mrtd:sha384", "mrconfigid", "mrowner", "mrownerconfig")


class TdxMeasurements:
    """The registers of one TD.

    Args:
        mountpoint: where to mount; made if it is not there.
        values: values of 48 bytes to begin with, by name; zeros for the others.

    Attributes:
        errors: errnos that the next extends end with, by name; nothing is extended then.
    """

    def __init__(self, mountpoint: str | Path, values: Mapping[str, bytes] | None = None) -> None:
        self.mountpoint = Path(mountpoint)
        self.errors: dict[str, int] = {}
        self._values = {name: bytes(SIZE) for name in NAMES} | dict(values or {})
        if set(self._values) != set(NAMES) or any(len(value) != SIZE for value in self._values.values()):
            raise ValueError(f"registers are {', '.join(NAMES)}, of {SIZE} bytes each")
        self._turn = threading.Lock()

    @contextmanager
    def mounted(self) -> Iterator[TdxMeasurements]:
        """Mounted while the body runs.

        Raises:
            RuntimeError: there is no FUSE here.
        """
        with fuse.mounted(_Files(self), self.mountpoint):
            yield self

    def value(self, name: str) -> bytes:
        """A register's value, for the quote that is to carry it."""
        with self._turn:
            return self._values[name]

    def rtmrs(self) -> tuple[bytes, ...]:
        """RTMR0 to RTMR3, all at one moment."""
        with self._turn:
            return tuple(self._values[name] for name in RTMRS)

    def extend(self, name: str, digest: bytes) -> None:
        """What the TDX module does: register becomes SHA-384(register || digest)."""
        with self._turn:
            self._values[name] = hashlib.sha384(self._values[name] + digest).digest()


class _Files:
    """The folder as a tree of files. Satisfies ``agent.devkit.fuse.Tree``; a handle is a name's number."""

    def __init__(self, registers: TdxMeasurements) -> None:
        self._registers = registers

    def getattr(self, path: str) -> tuple[int, int, int]:
        if path == "/":
            return fuse.folder()
        return stat.S_IFREG | self._mode(path), SIZE, 1

    def readdir(self, path: str) -> list[str]:
        del path
        return list(NAMES)

    def mkdir(self, path: str, mode: int) -> None:
        del path, mode
        refuse(errno.EPERM)

    def rmdir(self, path: str) -> None:
        del path
        refuse(errno.EPERM)

    def unlink(self, path: str) -> None:
        del path
        refuse(errno.EPERM)

    def create(self, path: str, mode: int) -> int:
        del path, mode
        refuse(errno.EACCES)

    def truncate(self, path: str, length: int) -> None:
        del length
        self._mode(path)

    def open(self, path: str, flags: int) -> int:
        fuse.access(self._mode(path), flags)
        return NAMES.index(path[1:])

    def read(self, handle: int, size: int, offset: int) -> bytes:
        return self._registers.value(NAMES[handle])[offset : offset + size]

    def write(self, handle: int, data: bytes, offset: int) -> int:
        name = NAMES[handle]
        if offset >= SIZE:
            refuse(errno.EFBIG)
        data = data[: SIZE - offset]  # sysfs cuts what is longer than the attribute (fs/sysfs/file.c)
        if len(data) != SIZE:
            refuse(errno.EINVAL)
        if code := self._registers.errors.pop(name, 0):
            refuse(code)
        self._registers.extend(name, data)
        return len(data)

    def flush(self, handle: int) -> None:
        pass

    def release(self, handle: int) -> None:
        pass

    def _mode(self, path: str) -> int:
        name = path[1:]
        if name not in NAMES:
            refuse(errno.ENOENT)
        return 0o644 if name in RTMRS else 0o444
