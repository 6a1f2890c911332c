"""One built root, and one machine that boots it for all tests that do not break it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rootfs.errors import BuildError
from rootfs.tools import missing as missing_tools
from tests.e2e.boot.booted import Booted, moments
from tests.e2e.boot.world import World, world
from tests.e2e.vm.kernel import CannotBuildError
from tests.e2e.vm.machine import missing

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Everything around the machine."""
    try:
        lacks = missing() or ", ".join(missing_tools()) or None
        if lacks is not None:
            raise CannotBuildError(lacks)
        with world(tmp_path_factory.mktemp("boot")) as made:
            yield made
    except (CannotBuildError, BuildError) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no boot: {error}")


@pytest.fixture(scope="session")
def booted(outside: World) -> Iterator[Booted]:
    """The built root, running; its first workload has been served."""
    machine = outside.machine("vm")
    with machine:
        print(f"{machine.greeting}, {machine.accelerator}")
        yield Booted(machine, outside, moments(machine))
