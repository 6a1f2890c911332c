"""What is around the machine: the built root, a key broker, secrets, and figures for the bench."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.devkit.demo import LAYER_KEY, RESOURCE, SIGNING_KEY, Material, prepare
from agent.devkit.kbs import DevKbs
from agent.devkit.kbs.broker import Settings
from rootfs import bundle, system
from tests.e2e.boot import media
from tests.e2e.vm import tpms
from tests.e2e.vm.hardware import Hardware
from tests.e2e.vm.kernel import kernel
from tests.e2e.vm.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rootfs.product import Built
    from tests.e2e.vm.kernel import Kernel

HOST: Final = "10.0.2.2"
"""The host's loopback, as QEMU's own network shows it to the guest."""

REST: Final = "http://127.0.0.1:8006/cdh/resource"


@dataclass
class World:
    """Everything but the machine.

    Attributes:
        folder: scratch.
        linux: the kernel.
        root: the built root; its file system and hash tree.
        hardware: what signs reports.
        kbs: believes that hardware, and gives its resources to SEV-SNP guests only.
        material: secrets.
    """

    folder: Path
    linux: Kernel
    root: Built
    hardware: Hardware
    kbs: DevKbs
    material: Material

    def machine(
        self, name: str, *, data: Path | None = None, tree: Path | None = None, parameters: str | None = None
    ) -> Machine:
        """A machine that boots the root, or one that somebody changed.

        Args:
            name: of its folder.
            data: file system, instead of the built one.
            tree: hash tree, instead of the built one.
            parameters: of dm-verity, instead of the built root's.
        """
        folder = self.folder / name
        folder.mkdir()
        devices = ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]
        files = (data or system.OUTPUT / system.PRODUCT.erofs, tree or system.OUTPUT / system.PRODUCT.tree)
        for file in (*files, self.folder / "disk"):
            devices += ["-drive", f"file={file},format=raw,if=virtio,readonly=on"]
        append = (
            f"coco.root.verity_params={parameters or self.root.verity.parameters()} "
            f"agent.aa_kbc_params=cc_kbc::http://{HOST}:{self.kbs.port}"
        )
        initramfs = self.folder / "initramfs"
        return Machine(folder, self.linux.image, initramfs, self.hardware, devices=devices, append=append)


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Build what is to be booted, and open the broker.

    Raises:
        CannotBuildError, BuildError: something this machine lacks.
    """
    linux = kernel()
    hardware = Hardware()
    # Of this checkout; built anew when something it is made of has changed.
    built = system.PRODUCT.current(system.OUTPUT) or system.build(system.OUTPUT, bundle.CACHE)
    media.initramfs(folder / "initramfs", linux)
    tpms.provision(folder / "tpm")
    media.disk(folder / "disk", f"{REST}/{RESOURCE}", folder / "tpm")
    with _broker(DevKbs(Settings(roots=hardware.amd.roots))) as kbs:
        kbs.deny()
        for path in (RESOURCE, SIGNING_KEY, LAYER_KEY):
            kbs.allow(path, tee="snp")
        yield World(folder, linux, built, hardware, kbs, prepare(kbs))


@contextmanager
def _broker(kbs: DevKbs) -> Iterator[DevKbs]:
    """Run it in a thread: the machine is talked to without a loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(kbs.start(), loop).result()
        yield kbs
    finally:
        asyncio.run_coroutine_threadsafe(kbs.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
