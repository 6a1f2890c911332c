"""Shared libraries: who needs which, and where the loader will find it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from rootfs.errors import BuildError
from rootfs.tools import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_MAGIC: Final = b"\x7fELF"
_LIBRARY: Final = re.compile(r"\.so(\.|$)")

_VERSIONED: Final = frozenset({"libstdc++.so.6", "libgcc_s.so.1"})
_ASKED: Final = re.compile(r"File: (\S+)")

GLIBC: Final = frozenset(
    {
        *("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1"),
        *("libresolv.so.2", "libanl.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"),
    }
)
"""The base image's, as for the stock extension. Everything else is carried."""


def is_elf(path: Path) -> bool:
    """Whether a file is a program or library."""
    with path.open("rb") as file:
        return file.read(4) == _MAGIC


def elves(root: Path) -> Iterator[Path]:
    """Programs and libraries below ``root``, sorted; links are left out."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink() and is_elf(path):
            yield path


def needed(path: Path) -> list[str]:
    """Names the loader looks for."""
    return run(["patchelf", "--print-needed", path]).split()


def libraries(root: Path) -> dict[str, Path]:
    """Shared libraries below ``root`` by file name, links included."""
    return {
        path.name: path
        for path in sorted(root.rglob("*.so*"))
        if path.is_file() and _LIBRARY.search(path.name) and is_elf(path)
    }


def closure(start: Iterable[Path], known: Mapping[str, Path]) -> dict[str, Path]:
    """Every library that ``start`` needs, directly or not, without glibc's; by name.

    Raises:
        BuildError: one is not among ``known``.
    """
    found: dict[str, Path] = {}
    waiting = list(start)
    while waiting:
        path = waiting.pop()
        for name in needed(path):
            if name in GLIBC or name in found:
                continue
            if name not in known:
                raise BuildError(f"{path.name} needs {name}: add its Debian package to rootfs/debian.py")
            found[name] = known[name].resolve()
            waiting.append(found[name])
    return dict(sorted(found.items()))


def strip(path: Path) -> None:
    """Take out what only a debugger reads."""
    run(["strip", "--strip-unneeded", path])


def drop_unused(path: Path) -> None:
    """Drop libstdc++ and libgcc_s where they are only named and no symbol of them is asked for.

    All their symbols carry versions, so the versions a file asks for tell. It saves 2 MB of image, and the
    memory of a library that every process would load for nothing.
    """
    named = _VERSIONED & set(needed(path))
    for name in sorted(named - set(_ASKED.findall(run(["readelf", "-V", path])))):
        run(["patchelf", "--remove-needed", name, path])


def set_rpath(program: Path, rpath: str) -> None:
    """Make the loader look in ``rpath`` first, for the program and all that it loads.

    DT_RPATH, not RUNPATH: it holds for modules that Python loads, and comes before an LD_LIBRARY_PATH
    somebody sets for a driver's libraries.
    """
    run(["patchelf", "--force-rpath", "--set-rpath", rpath, program])


def unresolved(root: Path, private: Path) -> list[str]:
    """What the loader would look for in the base image, other than glibc; empty is good.

    Args:
        root: the tree.
        private: folder that the programs' RPATH names.
    """
    here = {path.name for path in private.iterdir()}
    faults = []
    for path in elves(root):
        beside = _own(path)
        faults += [
            f"{path.relative_to(root)} needs {name}"
            for name in needed(path)
            if name not in GLIBC and name not in here and name not in beside
        ]
    return faults


def _own(path: Path) -> set[str]:
    """Libraries in the folders that a wheel's library names itself, relative to where it is."""
    names: set[str] = set()
    for entry in run(["patchelf", "--print-rpath", path]).strip().split(":"):
        folder = path.parent / entry.removeprefix("$ORIGIN").lstrip("/")
        if entry.startswith("$ORIGIN") and folder.is_dir():
            names |= {one.name for one in folder.iterdir()}
    return names
