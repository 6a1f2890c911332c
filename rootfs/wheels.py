"""Python packages: the hash-pinned wheels of the locks, installed by pip under the bundle's interpreter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rootfs.errors import BuildError
from rootfs.tools import run

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT: Final = Path(__file__).resolve().parent.parent
"""The checkout."""

EXTRAS: Final = ("nvidia-ml-py",)
"""Beside ``requirements.lock``: a GPU guest is a variant of the same image. grpcio (17 MB) is not in it."""

_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_PIP: Final = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); runpy.run_module('pip', run_name='__main__')"
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One entry of a lock.

    Attributes:
        name: normalised.
        version: pinned.
        text: the entry as it is in the lock.
        hashes: SHA-256 of the files that may be installed, in hexadecimal.
    """

    name: str
    version: str
    text: str
    hashes: tuple[str, ...]


def parse_lock(text: str) -> dict[str, Requirement]:
    """Entries of a lock by name; a comment is no entry."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", text)
    found = {}
    for entry in entries:
        match = re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", entry)
        if match:
            name = re.sub(r"[-_.]+", "-", match[1]).lower()
            found[name] = Requirement(name, match[2], entry.rstrip(), tuple(_HASH.findall(entry)))
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


def install(interpreter: Path, wanted: Iterable[Requirement], into: Path) -> None:
    """Install wheels into a folder. No source is built, and each file has to have a hash of the lock.

    Args:
        interpreter: decides which wheels fit; pip runs in it.
        wanted: entries.
        into: a new folder.
    """
    lock = into.with_suffix(".lock")
    lock.write_text("\n".join(one.text for one in wanted) + "\n")
    pip = Path(str(distribution("pip").locate_file("")))
    switches = ("--quiet", "--disable-pip-version-check", "--no-warn-script-location", "--no-compile")
    trust = ("--require-hashes", "--only-binary", ":all:", "--no-deps", "--root-user-action", "ignore")
    start = (str(interpreter), "-I", "-c", _PIP, str(pip), "install")
    run([*start, *switches, *trust, "--target", str(into), "-r", str(lock)])


def installed(folder: Path) -> dict[str, str]:
    """Versions by normalised name, from the records pip leaves in a folder."""
    found = {}
    for record in sorted(folder.glob("*.dist-info")):
        name, _, version = record.name.removesuffix(".dist-info").rpartition("-")
        found[re.sub(r"[-_.]+", "-", name).lower()] = version
    return found
