"""Kata's "coco" extension image from a checkout: bundle, manifest, erofs, dm-verity, disk, SBOM."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from rootfs import bundle, files, image, layout, manifest, sbom
from rootfs.errors import BuildError
from rootfs.image import Verity
from rootfs.wheels import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

OUTPUT: Final = ROOT / "build" / "image"
SIZE_MAX: Final = 24 * image.MIB
"""Bytes of the file system. Every guest reads it from a disk when it starts."""

DISK: Final = "kata-containers-coco-extension.img"
EROFS: Final = "coco-extension.erofs"
TREE: Final = "coco-extension.verity"
ROOT_HASH: Final = "root_hash_coco-extension.txt"
SBOM: Final = "coco-extension.cdx.json"
SUMMARY: Final = "coco-extension.json"
PRODUCTS: Final = (DISK, EROFS, TREE, ROOT_HASH, SBOM, SUMMARY)


class Built(msgspec.Struct, frozen=True):
    """A finished image.

    Attributes:
        verity: what guards it.
        tree_bytes: of all files in it.
        erofs_bytes: of the file system.
    """

    verity: Verity
    tree_bytes: int
    erofs_bytes: int

    def kernel_parameter(self) -> str:
        """As runtime-rs writes it from ``verity_params``."""
        return f"kata.extension.coco.verity_params={self.verity.parameters()}"


def build(
    output: Path, cache: Path, pause: Path | None = None, say: Callable[[str], None] = bundle.silent
) -> Built:
    """Build everything into a folder.

    Args:
        output: receives ``PRODUCTS``; other files in it stay.
        cache: downloaded packages.
        pause: a pause bundle to put in; it is not ours, and images without it cannot start pods whose
            pause container is pulled in the guest.
        say: told each step.

    Raises:
        BuildError: something is missing, or the image is too big.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="coco-extension-") as name:
        tree = Path(name).resolve() / "tree"
        contents = bundle.build(bundle.Options(into=tree, cache=cache, say=say))
        files.write(tree / layout.MANIFEST, manifest.COMPONENTS)
        files.write(tree / layout.OCICRYPT, manifest.ocicrypt())
        if pause is not None:
            _add_pause(pause, tree / layout.PAUSE)
        files.settle(tree)
        size = files.size(tree)
        say("erofs, dm-verity, disk")
        erofs, hashes = output / EROFS, output / TREE
        erofs_bytes = image.make_erofs(tree, erofs)
    if erofs_bytes > SIZE_MAX:
        raise BuildError(f"the image has {erofs_bytes} bytes, and may have {SIZE_MAX}: see rootfs/stdlib.py")
    verity = image.make_verity(erofs, hashes)
    image.verify(erofs, hashes, verity)
    image.make_disk(erofs, hashes, output / DISK)
    (output / ROOT_HASH).write_text(verity.parameters() + "\n")
    (output / SBOM).write_text(
        sbom.render("kata-containers-coco-extension", contents, verity.root_hash, bundle.distribution())
    )
    built = Built(verity, size, erofs_bytes)
    (output / SUMMARY).write_bytes(msgspec.json.format(msgspec.json.encode(built)) + b"\n")
    return built


def current(output: Path) -> Built | None:
    """An earlier build into the folder, if it is complete and no source of this checkout is newer."""
    products = [output / name for name in PRODUCTS]
    if not all(path.exists() for path in products):
        return None
    sources = [ROOT / name for name in ("pyproject.toml", "requirements.lock", "requirements-dev.lock")]
    sources += [path for name in ("agent", "rootfs") for path in (ROOT / name).rglob("*.py")]
    if max(path.stat().st_mtime for path in sources) > min(path.stat().st_mtime for path in products):
        return None
    return msgspec.json.decode((output / SUMMARY).read_bytes(), type=Built)


def _add_pause(source: Path, target: Path) -> None:
    if not (source / "rootfs").is_dir():
        raise BuildError(f"{source} is no pause bundle: it has no folder rootfs")
    shutil.copytree(source, target, symlinks=True)
