"""Copies with fixed modes, so that no umask or owner gets into an image."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from rootfs.tools import EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def write(path: Path, text: str, *, executable: bool = False) -> None:
    """Write a text file, making its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755 if executable else 0o644)


def copy(source: Path, target: Path) -> None:
    """Copy a file's content and whether it is executable; a link's target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)


def copy_tree(source: Path, target: Path, wanted: Callable[[Path], bool]) -> None:
    """Copy the files for which ``wanted(path relative to source)`` holds, in sorted order."""
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        if path.is_file() and wanted(relative):
            copy(path, target / relative)


def settle(root: Path) -> None:
    """Give every file the same time, and modes that depend on nothing but its kind."""
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_symlink():
            continue
        if path.is_dir():
            path.chmod(0o755)
        else:
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
        os.utime(path, (EPOCH, EPOCH))
    root.chmod(0o755)
    os.utime(root, (EPOCH, EPOCH))


def size(root: Path) -> int:
    """Bytes of all files below ``root``."""
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink())
