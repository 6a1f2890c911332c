"""The built root by itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from rootfs import bundle, system

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.boot.world import World

pytestmark = pytest.mark.vm


def test_a_second_build_is_the_same(outside: World, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert system.build(again, bundle.CACHE) == outside.root
    for name in system.PRODUCT.names:
        assert (again / name).read_bytes() == (system.OUTPUT / name).read_bytes(), name


def test_the_sbom_names_what_is_in_it(outside: World) -> None:
    document = json.loads((system.OUTPUT / system.PRODUCT.sbom).read_text())
    names = {component["name"] for component in document["components"]}
    assert {"systemd", "libc6", "python3.11-minimal", "cryptography", "coco-guest-agent"} <= names
    assert outside.root.verity.root_hash in json.dumps(document["metadata"])
