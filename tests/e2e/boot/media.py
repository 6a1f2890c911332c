"""What the machine boots beside the built root: the initramfs that opens it, and the test's own disk."""

from __future__ import annotations

import compileall
import py_compile
import shutil
from pathlib import Path
from typing import Final

from rootfs import files, layout
from rootfs.errors import BuildError
from rootfs.tools import find, run
from tests.e2e.vm.image import Archive, add_modules, libraries
from tests.e2e.vm.kernel import CannotBuildError, Kernel

MODULES: Final = (
    "virtio_blk", "virtio_net", "dm-verity", "erofs", "configfs", "tsm", "cuse", "tpm_vtpm_proxy",
)  # fmt: skip
"""Loaded before the root is opened, with what they depend on."""

_HERE: Final = Path(__file__).resolve().parent
_GUEST: Final = _HERE / "guest"
_TESTS: Final = _HERE.parents[1]


def initramfs(target: Path, kernel: Kernel) -> None:
    """Write the initramfs.

    Raises:
        CannotBuildError: something this machine lacks.
    """
    busybox, veritysetup = _program("busybox"), _program("veritysetup")
    with target.open("wb") as opened:
        archive = Archive(opened)
        for folder in ("/dev", "/proc", "/sys", "/run", "/root", "/tmp"):  # noqa: S108 - in the guest
            archive.folder(folder)
        archive.device("/dev/console", 5, 1)
        archive.file("/init", (_GUEST / "init").read_bytes(), 0o755)
        archive.file("/bin/busybox", busybox.read_bytes(), 0o755)
        archive.file("/sbin/veritysetup", veritysetup.read_bytes(), 0o755)
        for library in libraries([veritysetup]):
            archive.file(library, Path(library).read_bytes(), 0o755)
        add_modules(archive, kernel, MODULES)
        archive.close()


def disk(target: Path, first: str, tpm: Path) -> None:
    """Write the test's disk: simulators, clients, units.

    Args:
        target: file to write.
        first: URL the first workload asks for.
        tpm: state of the guest's TPM.

    Raises:
        CannotBuildError: something this machine lacks.
    """
    tree = target.with_suffix(".tree")
    for name in ("bin", "units/multi-user.target.wants", "root/proc", "swtpm", "tpm"):
        (tree / name).mkdir(parents=True)
    shutil.copy2(_program("busybox"), tree / "bin/busybox")
    for name in ("hardware", "first", "container"):
        shutil.copy2(_GUEST / name, tree / name)
        (tree / name).chmod(0o755)
    for unit in sorted((_GUEST / "units").iterdir()):
        text = unit.read_text(encoding="utf-8").replace("@first@", first)
        if unit.suffix == ".conf":
            files.write(tree / "units" / f"{unit.stem}.service.d/test.conf", text)
            continue
        files.write(tree / "units" / unit.name, text)
        (tree / "units/multi-user.target.wants" / unit.name).symlink_to(f"../{unit.name}")
    curl, swtpm = _program("curl"), _program("swtpm")
    for file in (curl, _program("busybox"), *map(Path, libraries([curl]))):
        _place(tree / "root", file)
    for file in (swtpm, *map(Path, libraries([swtpm]))):
        shutil.copy2(file, tree / "swtpm")
    shutil.copy2(tpm / "tpm2-00.permall", tree / "tpm")
    # The test's programs borrow the interpreter of the built root.
    (tree / "python3").symlink_to(f"/{layout.INTERPRETER}")
    _python(tree / "python")
    run(["mkfs.erofs", "--quiet", "--all-root", target, tree])
    shutil.rmtree(tree)


def _python(target: Path) -> None:
    """The tests' modules that run in the guest."""
    for name in ("__init__.py", "e2e/__init__.py", "e2e/vm", "e2e/boot"):
        source, copy = _TESTS / name, target / "tests" / name
        if source.is_dir():
            shutil.copytree(
                source, copy, ignore=shutil.ignore_patterns("__pycache__", "test_*", "conftest.py")
            )
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)
    # By a Python of the bundle's minor version, as this one is; compiling in the guest would take minutes.
    compileall.compile_dir(target, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


def _place(root: Path, file: Path) -> None:
    target = root / file.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(file, target)


def _program(name: str) -> Path:
    try:
        return Path(find(name))
    except BuildError as error:
        raise CannotBuildError(str(error)) from None
