"""Python packages: the hash-pinned wheels of the locks, installed by pip under the bundle's interpreter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from rootfs.errors import BuildError
from rootfs.tools import run

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT: Final = Path(__file__).resolve().parent.parent
"""The checkout."""

EXTRAS: Final = ("nvidia-ml-py",)
"""Beside ``requirements.lock``: a GPU guest is a variant of the same image. grpcio (17 MB) is not in it."""

_PIP: Final = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); runpy.run_module('pip', run_name='__main__')"
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One entry of a lock.

    Attributes:
        name: normalised.
        version: pinned.
        text: the entry as it is in the lock, with the hashes that are accepted.
    """

    name: str
    version: str
    text: str


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel that was installed.

    Attributes:
        name: normalised.
        version: its version.
        sha256: of the file, in hexadecimal.
    """

    name: str
    version: str
    sha256: str


class _Archive(msgspec.Struct):
    hashes: dict[str, str]


class _Download(msgspec.Struct):
    archive_info: _Archive


class _Metadata(msgspec.Struct):
    name: str
    version: str


class _Item(msgspec.Struct):
    download_info: _Download
    metadata: _Metadata


class _Report(msgspec.Struct):
    install: list[_Item]


def parse_lock(text: str) -> dict[str, Requirement]:
    """Entries of a lock by name; a comment is no entry."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", text)
    found = {}
    for entry in entries:
        match = re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", entry)
        if match:
            found[normalised(match[1])] = Requirement(normalised(match[1]), match[2], entry.rstrip())
    return found


def requirements(root: Path = ROOT) -> list[Requirement]:
    """What the bundle holds: the runtime lock and the extras, whose pins are in the development lock.

    Raises:
        BuildError: an extra is not pinned.
    """
    runtime = parse_lock((root / "requirements.lock").read_text())
    pinned = parse_lock((root / "requirements-dev.lock").read_text())
    absent = [name for name in EXTRAS if name not in pinned]
    if absent:
        raise BuildError(f"requirements-dev.lock does not pin {', '.join(absent)}. Next: make lock")
    chosen = {**runtime, **{name: pinned[name] for name in EXTRAS}}
    return [chosen[name] for name in sorted(chosen)]


def normalised(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def install(interpreter: Path, wanted: Iterable[Requirement], into: Path) -> list[Wheel]:
    """Install wheels into a folder. No source is built, and each file has to have a hash of the lock.

    Args:
        interpreter: decides which wheels fit; pip runs in it.
        wanted: entries.
        into: a new folder.
    """
    lock, report = into.with_suffix(".lock"), into.with_suffix(".json")
    lock.write_text("\n".join(one.text for one in wanted) + "\n")
    pip = Path(str(distribution("pip").locate_file("")))
    switches = ("--quiet", "--disable-pip-version-check", "--no-warn-script-location", "--no-compile")
    trust = ("--require-hashes", "--only-binary", ":all:", "--no-deps", "--root-user-action", "ignore")
    start = (str(interpreter), "-I", "-c", _PIP, str(pip), "install")
    run([*start, *switches, *trust, "--report", report, "--target", into, "-r", lock])
    return parse_report(report.read_bytes())


def parse_report(text: bytes) -> list[Wheel]:
    """What pip installed, from its installation report (version 1), in order of names."""
    found = [
        Wheel(
            normalised(item.metadata.name),
            item.metadata.version,
            item.download_info.archive_info.hashes["sha256"],
        )
        for item in msgspec.json.decode(text, type=_Report).install
    ]
    return sorted(found, key=lambda wheel: wheel.name)
