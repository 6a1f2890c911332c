"""Asks kernel files everything an attester may ask, and writes down what came of it.

Run against the kernel in the guest and against the simulators of ``agent.devkit`` outside: both must say the
same. Nothing writes no bytes at all: FUSE does not pass that on, and the kernel's EFAULT cannot be simulated.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LEVELS: Final = (
    b"0",
    b"1",
    b"2",
    b"3",
    b"4",
    b"-1",
    b"+1",
    b"0x2",
    b" 2",
    b"2\n",
    b"2\n\n",
    b"2 ",
    b"two",
)


class Notes:
    """Lines of ``what: result``; errors by name."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, what: str, work: Callable[..., object], *arguments: object) -> None:
        """Do it and write down the result."""
        try:
            result = work(*arguments)
        except OSError as error:
            result = errno.errorcode.get(error.errno or 0, "?")
        self.lines.append(f"{what}: {result!r}")


def probe(reports: Path) -> list[str]:
    """What the folder of requests of configfs-tsm answers.

    Args:
        reports: that folder; its provider answers ``b"out" + inblob`` and ``b"aux"``.
    """
    notes = Notes()
    entry = reports / "probe"
    notes.note("mkdir", entry.mkdir)
    if not entry.exists():
        return notes.lines
    try:
        notes.note("attributes", _attributes, entry)
        _before(entry, notes.note)
        _levels(entry, notes.note)
        _reports(entry, notes.note)
        _strange(entry, notes.note)
    finally:
        notes.note("rmdir", entry.rmdir)
    notes.note("rmdir again", entry.rmdir)
    return notes.lines


def probe_registers(folder: Path) -> list[str]:
    """What TDX's measurement registers in sysfs answer (attesters.md 3.3)."""
    notes = Notes()
    notes.note("attributes", _attributes, folder)
    for name in ("rtmr3:sha384", "mrconfigid"):
        path = folder / name
        notes.note(f"read {name}", _read, path)
        notes.note("bit by bit", _read, path, 7)
        notes.note("at 40", _read_at, path, 40)
        notes.note("at 48", _read_at, path, 48)
        for size in (1, 47, 48, 49, 96):
            notes.note(f"write {size}", _write, path, b"x" * size)
        notes.note("twice", _write, path, b"y" * 48, b"z" * 48)
        notes.note("write at 1", _write_at, path, b"x" * 48, 1)
        notes.note("write at 48", _write_at, path, b"x" * 48, 48)
        notes.note("for both", _open, path, os.O_RDWR)
        notes.note("to append", _open, path, os.O_WRONLY | os.O_APPEND)
        notes.note("emptied", _open, path, os.O_WRONLY | os.O_TRUNC)
        notes.note("unlink", path.unlink)
        notes.note(f"read {name}", _read, path)
    notes.note("create", _open, folder / "made", os.O_CREAT | os.O_WRONLY)
    notes.note("mkdir", (folder / "inside").mkdir)
    return notes.lines


def _before(entry: Path, note: Callable[..., None]) -> None:
    for name in (
        "provider",
        "generation",
        "privlevel_floor",
        "outblob",
        "auxblob",
        "inblob",
        "privlevel",
        "none",
    ):
        note(f"read {name}", _read, entry / name)
    for name in ("outblob", "generation", "provider", "none"):
        note(f"write {name}", _write, entry / name, b"0")


def _levels(entry: Path, note: Callable[..., None]) -> None:
    for level in _LEVELS:
        note(f"privlevel {level!r}", _write, entry / "privlevel", level)
        note("generation", _read, entry / "generation")


def _reports(entry: Path, note: Callable[..., None]) -> None:
    for size in (64, 1, 31, 32, 48, 63, 64, 65, 64, 4096):
        note(f"inblob of {size}", _write, entry / "inblob", bytes(size))
        note("generation", _read, entry / "generation")
        note("outblob", _read, entry / "outblob")
        note("auxblob", _read, entry / "auxblob")
    note("in two pieces", _write, entry / "inblob", b"a" * 40, b"b" * 24)
    note("generation", _read, entry / "generation")
    note("outblob, bit by bit", _read, entry / "outblob", 7)
    note("outblob again", _read, entry / "outblob")
    note("outblob at 3", _read_at, entry / "outblob", 3)
    note("auxblob", _read, entry / "auxblob")
    note("a piece too much", _write, entry / "inblob", b"a" * 40, b"b" * 40)
    note("generation", _read, entry / "generation")
    note("outblob", _read, entry / "outblob")


def _strange(entry: Path, note: Callable[..., None]) -> None:
    note("mkdir again", entry.mkdir)
    note("mkdir inside", (entry / "inside").mkdir)
    note("create", _open, entry / "made", os.O_CREAT | os.O_WRONLY)
    note("unlink", (entry / "inblob").unlink)
    for name in ("inblob", "outblob", "generation"):
        note(f"{name} for both", _open, entry / name, os.O_RDWR)
    note("opened and not written", _open, entry / "inblob", os.O_WRONLY)
    note("emptied", _open, entry / "inblob", os.O_WRONLY | os.O_TRUNC)
    note("generation", _read, entry / "generation")


def _attributes(folder: Path) -> list[tuple[str, str, int]]:
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    return [(name, oct(stat.st_mode), stat.st_size) for name, stat in stats]


def _open(path: Path, flags: int) -> None:
    os.close(os.open(path, flags))


def _read(path: Path, size: int = 1 << 16) -> bytes:
    opened = os.open(path, os.O_RDONLY)
    try:
        content = b""
        while piece := os.read(opened, size):
            content += piece
        return content
    finally:
        os.close(opened)


def _read_at(path: Path, offset: int) -> bytes:
    opened = os.open(path, os.O_RDONLY)
    try:
        return os.pread(opened, 1 << 16, offset)
    finally:
        os.close(opened)


def _write(path: Path, *pieces: bytes) -> list[int]:
    opened = os.open(path, os.O_WRONLY)
    try:
        return [os.write(opened, piece) for piece in pieces]
    finally:
        os.close(opened)


def _write_at(path: Path, content: bytes, offset: int) -> int:
    opened = os.open(path, os.O_WRONLY)
    try:
        return os.pwrite(opened, content, offset)
    finally:
        os.close(opened)
