"""A configfs-tsm without a TEE: the kernel's semantics in FUSE, our own quotes behind it.

Follows Linux drivers/virt/coco/guest/report.c and fs/configfs/file.c as seen from outside (attesters.md 4,
python_runtime.md 7a, 7d). Mount it at ``<sysroot>/sys/kernel/config/tsm/report``.
"""

from __future__ import annotations

import errno
import re
import stat
import threading
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent.devkit import fuse
from agent.devkit.fuse import refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    Quote = Callable[[bytes, int], tuple[bytes, bytes]]

REPORTS: Final = "sys/kernel/config/tsm/report"
"""Where it belongs below a simulated root."""

INBLOB_MAX: Final = 64
OUTBLOB_MAX: Final = 16 * 1024 * 1024
_TEXT_SIZE: Final = 4096
_U32: Final = 0xFFFFFFFF
_NUMBER: Final = re.compile(rb"\+?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)\n?")
_BLOBS: Final = frozenset({"inblob", "outblob", "auxblob", "manifestblob"})
_MODES: Final = {
    "generation": 0o444, "provider": 0o444, "privlevel_floor": 0o444,
    "privlevel": 0o200,
    "service_provider": 0o200, "service_guid": 0o200, "service_manifest_version": 0o200,
    "inblob": 0o200, "outblob": 0o444, "auxblob": 0o444, "manifestblob": 0o444,
}  # fmt: skip

ALL: Final = tuple(_MODES)
"""The attributes of a driver that hides none: 11 (python_runtime.md 7d)."""

SHOWN: Final = {
    "tdx_guest": ("generation", "provider", "inblob", "outblob"),
    "arm_cca_guest": ("generation", "provider", "inblob", "outblob"),
    "sev_guest": (
        *("generation", "provider", "privlevel", "privlevel_floor"),
        *("inblob", "outblob", "auxblob"),
    ),
}
"""The attributes that the drivers of Linux 6.12 show: fewer than 11 (sev-guest at VMPL 0)."""

_SIZES: Final = {"tdx_guest": (64, 64), "sev_guest": (64, 64), "arm_cca_guest": (32, 64)}


class Faults(msgspec.Struct):
    """Switches, looked at by the next request.

    Attributes:
        errors: errnos that the next reports end with, one each: EBUSY, EIO, ETIMEDOUT, EINTR.
        conflicts: so many inblobs are followed by another process's write.
        dropped: so many inblobs come to nothing; close() says nothing of it, as in the kernel.
        mkdir: errno of every mkdir, e.g. EACCES; 0 for none.
        empty: reports have no bytes, as on TDX while the host's QGS is down.
        hang: reports do not come until this is False again, the reader is killed or all is unmounted.
    """

    errors: deque[int] = msgspec.field(default_factory=deque)
    conflicts: int = 0
    dropped: int = 0
    mkdir: int = 0
    empty: bool = False
    hang: bool = False


class _Entry(msgspec.Struct):
    written: int = 0
    read: int = 0
    inblob: bytes = b""
    privlevel: int = 0
    outblob: bytes | None = None
    auxblob: bytes = b""


class _Handle(msgspec.Struct):
    entry: _Entry
    name: str
    content: bytes | None = None
    buffer: bytearray = msgspec.field(default_factory=bytearray)
    dirty: bool = False


class _Reports:
    """What the kernel does, as a tree of files. Satisfies ``agent.devkit.fuse.Tree``."""

    def __init__(
        self,
        mountpoint: str | Path,
        provider: str | None,
        quote: Quote,
        *,
        privlevel_floor: int = 0,
        attributes: Collection[str] = ALL,
        outblob_max: int = OUTBLOB_MAX,
    ) -> None:
        self.mountpoint = Path(mountpoint)
        self.provider = provider
        self.privlevel_floor = privlevel_floor
        self.faults = Faults()
        self.reports = 0
        self.made = 0
        self.hanging = threading.Event()
        self._quote = quote
        self._attributes = tuple(attributes)
        self._outblob_max = outblob_max
        self._entries: dict[str, _Entry] = {}
        self._handles: dict[int, _Handle] = {}
        self._next = 1
        self._state = threading.RLock()
        self._ended = threading.Event()

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of the entries there are now."""
        with self._state:
            return tuple(self._entries)

    def getattr(self, path: str) -> tuple[int, int, int]:
        name, attribute = _split(path)
        if not name:
            return fuse.folder(len(self.entries))
        self._entry(name)
        if not attribute:
            return fuse.folder()
        if attribute not in self._attributes:
            refuse(errno.ENOENT)
        return stat.S_IFREG | _MODES[attribute], 0 if attribute in _BLOBS else _TEXT_SIZE, 1

    def readdir(self, path: str) -> list[str]:
        name, _ = _split(path)
        if not name:
            return list(self.entries)
        self._entry(name)
        return list(self._attributes)

    def mkdir(self, path: str, mode: int) -> None:
        del mode
        name, inner = _split(path)
        if inner:
            refuse(errno.EPERM)
        self._make(name)

    def rmdir(self, path: str) -> None:
        name, attribute = _split(path)
        if attribute:
            refuse(errno.ENOTDIR)
        self._drop(name)

    def unlink(self, path: str) -> None:
        del path
        refuse(errno.EPERM)

    def create(self, path: str, mode: int) -> int:
        del path, mode
        refuse(errno.EACCES)

    def truncate(self, path: str, length: int) -> None:
        del length
        self.getattr(path)

    def open(self, path: str, flags: int) -> int:
        name, attribute = _split(path)
        entry = self._entry(name)
        if attribute not in self._attributes:
            refuse(errno.ENOENT)
        fuse.access(_MODES[attribute], flags)
        with self._state:
            number = self._next
            self._next += 1
            self._handles[number] = _Handle(entry, attribute)
        return number

    def read(self, handle: int, size: int, offset: int) -> bytes:
        held = self._handle(handle)
        if held.content is None:
            # The whole attribute is made at the first read, and served from then on.
            read = self._report if held.name in _BLOBS else self._show
            held.content = read(held.entry, held.name)
        return held.content[offset : offset + size]

    def write(self, handle: int, data: bytes, offset: int) -> int:
        held = self._handle(handle)
        if held.name not in _BLOBS:
            self._store(held.entry, held.name, data)
            return len(data)
        held.dirty = True  # also by a write that fails: close() then applies what there was before it
        if offset + len(data) > INBLOB_MAX:
            refuse(errno.EFBIG)
        held.buffer[offset : offset + len(data)] = data
        return len(data)

    def flush(self, handle: int) -> None:
        # The kernel applies a blob when it is released, which close() waits for; FUSE's release comes later.
        held = self._handle(handle)
        if held.dirty:
            held.dirty = False
            self._apply(held.entry, bytes(held.buffer))

    def release(self, handle: int) -> None:
        self.flush(handle)
        with self._state:
            self._handles.pop(handle, None)

    def _entry(self, name: str) -> _Entry:
        with self._state:
            return self._entries.get(name) or refuse(errno.ENOENT)

    def _handle(self, number: int) -> _Handle:
        with self._state:
            return self._handles.get(number) or refuse(errno.EBADF)

    def _make(self, name: str) -> None:
        with self._state:
            if self.faults.mkdir:
                refuse(self.faults.mkdir)
            if self.provider is None:
                refuse(errno.ENXIO)
            if name in self._entries:
                refuse(errno.EEXIST)
            self._entries[name] = _Entry()
            self.made += 1

    def _drop(self, name: str) -> None:
        with self._state:
            if self._entries.pop(name, None) is None:
                refuse(errno.ENOENT)

    def _show(self, entry: _Entry, name: str) -> bytes:
        if name == "generation":
            return b"%d\n" % entry.written
        if self.provider is None:
            refuse(errno.ENXIO)
        return b"%d\n" % self.privlevel_floor if name == "privlevel_floor" else f"{self.provider}\n".encode()

    def _store(self, entry: _Entry, name: str, text: bytes) -> None:
        with self._state:
            if name == "privlevel":
                level = _number(text)
                if self.provider is None:
                    refuse(errno.ENXIO)
                if not self.privlevel_floor <= level <= 3:
                    refuse(errno.EINVAL)
                entry.privlevel = level
            elif name == "service_manifest_version":
                _number(text)
            entry.written += 1

    def _apply(self, entry: _Entry, inblob: bytes) -> None:
        with self._state:
            if self.faults.dropped > 0:
                self.faults.dropped -= 1
                return
            entry.written += 1
            entry.inblob = inblob
            if self.faults.conflicts > 0:
                self.faults.conflicts -= 1
                entry.written += 1
                entry.inblob = bytes(byte ^ 0xFF for byte in inblob)

    def _report(self, entry: _Entry, name: str) -> bytes:
        if not entry.inblob:
            refuse(errno.EINVAL)
        if entry.outblob is None or entry.read != entry.written:
            self._generate(entry)
        content = {"outblob": entry.outblob, "auxblob": entry.auxblob}.get(name) or b""
        if not content and name != "outblob":
            refuse(errno.EINVAL)
        if len(content) > self._outblob_max:
            refuse(errno.EFBIG)
        return content

    def _generate(self, entry: _Entry) -> None:
        with self._state:
            self.reports += 1
            entry.outblob, entry.auxblob = None, b""
            if self.provider is None:
                refuse(errno.ENXIO)
            if self.faults.errors:
                refuse(self.faults.errors.popleft())
            least, most = _SIZES.get(self.provider, (1, INBLOB_MAX))
            if not least <= len(entry.inblob) <= most:
                refuse(errno.EINVAL)
            inblob, privlevel, written = entry.inblob, entry.privlevel, entry.written
        self._hang()
        outblob, auxblob = self._quote(inblob, privlevel)
        with self._state:
            entry.outblob, entry.auxblob = (b"", b"") if self.faults.empty else (outblob, auxblob)
            entry.read = written

    def _hang(self) -> None:
        while self.faults.hang:
            self.hanging.set()
            if self._ended.wait(0.01):
                refuse(errno.EIO)
        self.hanging.clear()


class ConfigfsTsm(_Reports):
    """The folder of requests. Attributes may be set while it is mounted.

    Args:
        mountpoint: where to mount; made if it is not there.
        provider: name of the driver, e.g. ``tdx_guest``; None: no driver is loaded.
        quote: makes (outblob, auxblob) from the inblob and the privilege level; OSError is passed on.
        privlevel_floor: lowest privilege level that may be asked for.
        attributes: what the driver shows; see :data:`ALL` and :data:`SHOWN`.
        outblob_max: the kernel's limit, 32 KiB or 16 MiB.

    Attributes:
        faults: switches.
        reports: how many reports were asked for, failed ones too.
        made: how many entries were made.
    """

    @contextmanager
    def mounted(self) -> Iterator[ConfigfsTsm]:
        """Mounted while the body runs.

        Raises:
            RuntimeError: there is no FUSE here.
        """
        self._ended.clear()
        with fuse.mounted(self, self.mountpoint):
            try:
                yield self
            finally:
                self._ended.set()


def _split(path: str) -> tuple[str, str]:
    name, _, attribute = path.strip("/").partition("/")
    return name, attribute


def _number(text: bytes) -> int:
    match = _NUMBER.fullmatch(text)
    if match is None:
        refuse(errno.EINVAL)
    digits = match[1].decode().lower()
    value = int(digits, 16 if digits.startswith("0x") else 8 if digits.startswith("0") else 10)
    if value > _U32:
        refuse(errno.ERANGE)
    return value
