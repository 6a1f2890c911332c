"""The guest's root file system: an initramfs with busybox, kernel modules, Python and the agent."""

from __future__ import annotations

import importlib.util
import lzma
import marshal
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from tests.e2e.vm.kernel import HERE, CannotBuildError, Kernel, our_module

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MODULES: Final = ("configfs", "tsm", "cuse", "vsock_loopback", "tpm_vtpm_proxy")
"""Loaded at boot, with what they depend on; the rest is built into Debian's kernel."""

PACKAGES: Final = ("msgspec", "cryptography", "cffi", "_cffi_backend")
"""Of this environment, as far as attesters use them."""

_LEFT_OUT: Final = frozenset({
    "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "distutils", "pydoc_data",
    "unittest", "sqlite3", "curses", "dbm", "xmlrpc", "wsgiref", "venv", "site-packages", "dist-packages",
    "__pycache__", "config", "__phello__",
})  # fmt: skip
_DEPENDS: Final = re.compile(rb"\0depends=([^\0]*)\0")
_ROOT: Final = HERE.parents[2]


class Archive:
    """Writes a cpio archive in the kernel's format ("newc"); devices too, without being root."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self._number = 0
        self._there: set[str] = set()

    def folder(self, path: str) -> None:
        """A folder and those above it."""
        if path in self._there or path in {"", "/", "."}:
            return
        self.folder(str(Path(path).parent))
        self._there.add(path)
        self._entry(path, stat.S_IFDIR | 0o755, b"")

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """A file; the second one of a name is left out."""
        if path in self._there:
            return
        self.folder(str(Path(path).parent))
        self._there.add(path)
        self._entry(path, stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self.folder(str(Path(path).parent))
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def device(self, path: str, major: int, minor: int) -> None:
        """A character device."""
        self.folder(str(Path(path).parent))
        self._entry(path, stat.S_IFCHR | 0o600, b"", (major, minor))

    def close(self) -> None:
        """Write the end mark."""
        self._entry("/TRAILER!!!", 0, b"")

    def _entry(self, path: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> None:
        self._number += 1
        name = path.removeprefix("/").encode() + b"\0"
        fields = (self._number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        self._target.write(_padded(head) + _padded(content))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def build(target: Path, kernel: Kernel, extra: Sequence[tuple[str, Path]] = ()) -> None:
    """Write the initramfs, uncompressed: unpacking under emulation takes longer than reading.

    Args:
        target: file to write.
        kernel: whose modules to take.
        extra: further files: path in the guest, file here.

    Raises:
        CannotBuildError: something this machine lacks.
    """
    busybox = shutil.which("busybox")
    if busybox is None:
        raise CannotBuildError("no busybox (Debian: busybox-static)")
    with target.open("wb") as opened:
        archive = Archive(opened)
        for folder in ("/dev", "/proc", "/sys", "/tmp", "/run", "/modules"):  # noqa: S108 - in the guest
            archive.folder(folder)
        archive.device("/dev/console", 5, 1)
        archive.file("/init", (HERE / "guest" / "init").read_bytes(), 0o755)
        archive.file("/bin/busybox", Path(busybox).read_bytes(), 0o755)
        archive.link("/bin/sh", "busybox")
        add_modules(archive, kernel, MODULES)
        binaries = [Path(busybox), *_add_python(archive)]
        for path, source in extra:
            archive.file(path, source.read_bytes(), 0o755)
        swtpm = shutil.which("swtpm")
        if swtpm is None:
            raise CannotBuildError("no swtpm")
        archive.file("/usr/bin/swtpm", Path(swtpm).read_bytes(), 0o755)
        binaries.append(Path(swtpm))
        for library in libraries(binaries):
            archive.file(library, Path(library).read_bytes(), 0o755)
        archive.close()


def add_modules(archive: Archive, kernel: Kernel, names: Sequence[str]) -> None:
    """Modules with what they depend on below ``/modules``, their order in a file, and ours.

    Raises:
        CannotBuildError: the kernel has no such module.
    """
    order: list[str] = []

    def add(name: str) -> None:
        found = list(kernel.modules.rglob(f"{name}.ko.xz"))
        if not found:
            raise CannotBuildError(f"{kernel.release} has no module {name}")
        content = lzma.decompress(found[0].read_bytes())
        depends = _DEPENDS.search(content)
        for other in depends[1].decode("ascii").split(",") if depends and depends[1] else []:
            add(other)
        if f"{name}.ko" not in order:
            order.append(f"{name}.ko")
            archive.file(f"/modules/{name}.ko", content)

    for name in names:
        add(name)
    archive.file("/modules/order", "".join(f"{name}\n" for name in order).encode("ascii"))
    archive.file("/modules/coco_tsm.ko", our_module(kernel).read_bytes())


def _add_python(archive: Archive) -> Iterator[Path]:
    """This interpreter, its standard library, packages and the agent. Yields what needs libraries."""
    version = f"python{sysconfig.get_python_version()}"
    interpreter = Path(sys.executable).resolve()
    archive.file("/usr/bin/python3", interpreter.read_bytes(), 0o755)
    yield interpreter
    library = Path(sysconfig.get_path("stdlib"))
    yield from _add_tree(archive, library, f"/usr/lib/{version}", _LEFT_OUT)
    # As installed packages: the process that collects evidence is started isolated, and sees nothing else.
    site = f"/usr/lib/{version}/site-packages"
    archive.link(f"/usr/local/lib/{version}/dist-packages", site)  # where Debian's own Python looks
    # The interpreter looks for one file by name before it believes that this is its library.
    archive.file(f"/usr/lib/{version}/os.py", (library / "os.py").read_bytes())
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise CannotBuildError(f"no Python package {name}")
        found = Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
        yield from _add_tree(archive, found, f"{site}/{found.name}", _LEFT_OUT)
    yield from _add_tree(archive, _ROOT / "agent", f"{site}/agent", frozenset({"__pycache__"}))
    for package in (HERE.parent.parent, HERE.parent):
        archive.file(f"{site}/{(package / '__init__.py').relative_to(_ROOT)}", b"")
    yield from _add_tree(archive, HERE, f"{site}/{HERE.relative_to(_ROOT)}", frozenset({"__pycache__"}))


def _add_tree(archive: Archive, source: Path, target: str, left_out: frozenset[str]) -> Iterator[Path]:
    if source.is_file():
        if source.suffix == ".py":
            archive.file(f"{target}c", _compiled(source))
        elif source.suffix == ".so":
            archive.file(target, source.read_bytes(), 0o755)
            yield source
        return
    for child in sorted(source.iterdir()):
        if child.name not in left_out and not child.name.startswith("config-"):
            yield from _add_tree(archive, child, f"{target}/{child.name}", left_out)


def _compiled(source: Path) -> bytes:
    """Byte code that is never compared with its source; compiling in the guest would take minutes."""
    head = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)
    try:
        cached = Path(importlib.util.cache_from_source(str(source))).read_bytes()
        made_of = int.from_bytes(cached[4:8], "little"), int.from_bytes(cached[8:12], "little")
        if cached[:4] == head[:4] and made_of == (0, int(source.stat().st_mtime)):
            return head + cached[16:]
    except OSError:
        pass
    return head + marshal.dumps(compile(source.read_bytes(), source.name, "exec", dont_inherit=True))


def libraries(binaries: Sequence[Path]) -> set[str]:
    """What the dynamic linker would load, itself included."""
    listed = subprocess.run(["ldd", *map(str, binaries)], check=False, capture_output=True, text=True)
    found = set(re.findall(r"(?:=> )?(/[^ :]+) \(0x", listed.stdout))
    return {path for path in found if "site-packages" not in path}
