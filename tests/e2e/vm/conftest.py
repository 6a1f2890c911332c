"""One virtual machine for all tests."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from tests.e2e.vm import tpms
from tests.e2e.vm.firmware_log import firmware_log
from tests.e2e.vm.hardware import Hardware
from tests.e2e.vm.image import build
from tests.e2e.vm.kernel import CannotBuildError, kernel
from tests.e2e.vm.machine import Machine, missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AZURE_REPORT_DATA = b"the paravisor's report carries this".ljust(48, b".")
"""Its vTPMs are prepared with a report over this."""


@pytest.fixture(scope="session")
def hardware() -> Hardware:
    made = Hardware()
    made.td = replace(made.td, rtmrs=firmware_log().rtmrs, mrconfigid=bytes(range(100, 148)))
    made.snp = replace(made.snp, host_data=bytes(range(32)))
    return made


@pytest.fixture(scope="session")
def booted(hardware: Hardware, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    try:
        lacks = missing()
        if lacks is not None:
            raise CannotBuildError(lacks)
        linux = kernel()
        folder = tmp_path_factory.mktemp("vm")
        build(folder / "initramfs", linux, _azure_tpms(folder, hardware))
    except CannotBuildError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no virtual machine: {error}")
    tpms.provision(folder / "tpm")
    log = firmware_log()
    devices = [
        *("-chardev", f"socket,id=tpm,path={folder / 'tpm.ctrl'}", "-tpmdev", "emulator,id=tpm,chardev=tpm"),
        *("-device", "tpm-tis,tpmdev=tpm"),
        *log.devices(folder),
    ]
    guest = Machine(folder, linux.image, folder / "initramfs", hardware, devices=devices, append=log.append)
    with tpms.chip(folder / "tpm", folder / "tpm.ctrl"), guest:
        print(guest.greeting)
        yield guest


def _azure_tpms(folder: Path, hardware: Hardware) -> list[tuple[str, Path]]:
    """Files for the guest: the state of one TPM for each of Azure's TEEs."""
    files: list[tuple[str, Path]] = []
    for name, kind, report in (
        ("snp", 2, partial(hardware.amd.report, hardware.snp)),
        ("tdx", 4, partial(hardware.intel.tdreport, hardware.td)),
    ):
        state = folder / f"azure-{name}"
        tpms.provision_azure(state, report, kind, AZURE_REPORT_DATA)
        files.append((f"/tpm/{name}/tpm2-00.permall", state / "tpm2-00.permall"))
    return files


@pytest.fixture
def vm(booted: Machine, hardware: Hardware) -> Machine:
    hardware.reset()
    return booted
