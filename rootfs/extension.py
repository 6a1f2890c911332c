"""Kata's "coco" extension image from a checkout: bundle, manifest, erofs, dm-verity, disk, SBOM."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rootfs import bundle, files, layout, manifest
from rootfs.errors import BuildError
from rootfs.image import MIB
from rootfs.product import Product
from rootfs.wheels import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from rootfs.product import Built

OUTPUT: Final = ROOT / "build" / "image"
PRODUCT: Final = Product(
    name="kata-containers-coco-extension",
    stem="coco-extension",
    disk="kata-containers-coco-extension.img",
    # Every guest reads it from a disk when it starts.
    most=24 * MIB,
)

DEV_PRODUCT: Final = replace(
    PRODUCT,
    name="kata-containers-coco-extension-dev",
    stem="coco-extension-dev",
    disk="kata-containers-coco-extension-dev.img",
)
"""For guests without a TEE; its files lie beside the other's."""


def kernel_parameter(built: Built) -> str:
    """As runtime-rs writes it from ``verity_params``."""
    return f"kata.extension.coco.verity_params={built.verity.parameters()}"


def build(
    output: Path,
    cache: Path,
    pause: Path | None = None,
    say: Callable[[str], None] = bundle.silent,
    *,
    dev: bool = False,
) -> Built:
    """Build everything into a folder.

    Args:
        output: receives the files of ``PRODUCT``, or of ``DEV_PRODUCT``; others in it stay.
        cache: downloaded packages.
        pause: a pause bundle to put in; it is not ours, and images without it cannot start pods whose
            pause container is pulled in the guest.
        say: told each step.
        dev: the variant that gives sample evidence where there is no TEE.

    Raises:
        BuildError: something is missing, or the image is too big.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="coco-extension-") as name:
        tree = Path(name).resolve() / "tree"
        contents = bundle.build(bundle.Options(into=tree, cache=cache, dev=dev, say=say))
        files.write(tree / layout.MANIFEST, manifest.DEVELOPMENT if dev else manifest.COMPONENTS)
        files.write(tree / layout.OCICRYPT, manifest.ocicrypt())
        if pause is not None:
            _add_pause(pause, tree / layout.PAUSE)
        files.settle(tree)
        say("erofs, dm-verity, disk")
        return (DEV_PRODUCT if dev else PRODUCT).write(tree, contents, output)


def _add_pause(source: Path, target: Path) -> None:
    if not (source / "rootfs").is_dir():
        raise BuildError(f"{source} is no pause bundle: it has no folder rootfs")
    shutil.copytree(source, target, symlinks=True)
