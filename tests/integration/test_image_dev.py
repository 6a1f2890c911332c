"""The development variant of the extension image, really built, in a guest without a TEE."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent import variant
from rootfs import extension, layout
from rootfs.bundle import CACHE
from tests import kata
from tests.bench.bundle import AA, CDH, REST
from tests.bench.extension import inside
from tests.integration.test_image_build import ran, unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.bench.children import Child

pytestmark = pytest.mark.integration

EVIDENCE = "/aa/evidence?runtime_data=data"


@pytest.fixture(scope="module")
def output() -> Path:
    """With the production image."""
    reason = unavailable()
    if reason is not None:
        assert "CI" not in os.environ, f"in CI nothing is skipped: {reason}"
        pytest.skip(reason)
    if extension.PRODUCT.current(extension.OUTPUT) is None:
        extension.build(extension.OUTPUT, CACHE)
    return extension.OUTPUT


@pytest.fixture(scope="module")
def dev(output: Path) -> Path:
    """With the development image beside it."""
    if extension.DEV_PRODUCT.current(output) is None:
        extension.build(output, CACHE, dev=True)
    return output


@pytest.fixture
async def bare(dev: Path, tmp_path: Path) -> AsyncIterator[Child]:
    """A guest with that image and no TEE."""
    async with inside(dev / extension.DEV_PRODUCT.erofs, tmp_path / "guest.log", tee=False) as running:
        await running.read()
        yield running


async def started(guest: Child) -> None:
    for process in (AA, CDH, REST):
        await guest.ask("start", process=process)


async def test_it_gives_marked_sample_evidence_without_a_setting(bare: Child) -> None:
    await started(bare)
    answer = await bare.ask("get", path=EVIDENCE)
    evidence = json.loads(base64.b64decode(answer["output"]))
    assert evidence == {"svn": "1", "report_data": "ZGF0YQ==", "image": "development"}
    info = json.loads(base64.b64decode((await bare.ask("get", path="/info"))["output"]))
    assert (info["tee"], info["image"]) == ("sample", "development")
    assert variant.WARNING in (await ran(bare, "cat", f"/run/{AA}.log")).decode()
    shown = (await ran(bare, f"{kata.ROOT}/{layout.PROGRAMS}/coco-agent", "info")).decode()
    assert variant.WARNING in shown


async def test_a_broker_that_allows_it_gives_its_guests_a_secret(bare: Child) -> None:
    await started(bare)
    answer = await bare.ask("get", path="/cdh/resource/default/key/1")
    assert answer["status"] == 0, answer


async def test_it_is_marked_where_it_lies(dev: Path, bare: Child) -> None:
    text = (await ran(bare, "cat", f"{kata.ROOT}/{layout.MANIFEST}")).decode()
    assert text.startswith("# DEVELOPMENT IMAGE")
    files = (await ran(bare, "find", f"{kata.ROOT}/{layout.MODULES}/agent/devkit", "-type", "f")).decode()
    assert {Path(name).stem for name in files.split()} == {"__init__", "sample"}
    document = json.loads((dev / extension.DEV_PRODUCT.sbom).read_text())
    assert document["metadata"]["component"]["name"] == extension.DEV_PRODUCT.name
    here, production = extension.DEV_PRODUCT.current(dev), extension.PRODUCT.current(dev)
    assert here is not None
    assert production is not None  # as it was
    assert here.verity.root_hash != production.verity.root_hash


SELECTED = (
    "from agent.config.model import Attester\n"
    "from agent.tee.evidence_source import select\n"
    "from agent.tee.platform import Detection\n"
    "print(select(Detection((), None, ()), Attester(allow_sample=True, sample_device=True)).problem.name)\n"
)


async def test_the_production_image_gives_none_whatever_is_set(output: Path, tmp_path: Path) -> None:
    lead = {"ENABLE_SAMPLE_DEVICE": "1", "DEVELOPMENT": "1"}
    async with inside(output / extension.PRODUCT.erofs, tmp_path / "guest.log", tee=False) as guest:
        await guest.read()
        interpreter = f"{kata.ROOT}/{layout.INTERPRETER}"
        assert await ran(guest, interpreter, "-IS", "-c", SELECTED, **lead) == b"SAMPLE_REFUSED\n"
        shown = await ran(guest, f"{kata.ROOT}/{layout.PROGRAMS}/coco-agent", "info", "--json", **lead)
        assert "image" not in json.loads(shown)
        await started(guest)
        assert (await guest.ask("get", path=EVIDENCE))["status"] != 0
        assert "DEVELOPMENT" not in (await ran(guest, "cat", f"/run/{AA}.log")).decode()
