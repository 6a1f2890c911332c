"""`coco-agent doctor --node` as an operator runs it: on trees of worker nodes, and on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.integration.support import run
from tests.unit.doctor.node.trees import plant, snp_files, tdx_files, without

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration


async def node(*options: str) -> tuple[int, str, str]:
    status, output, errors = await run("coco-agent", "doctor", "--node", *options)
    return status, output.decode(), errors


async def test_a_healthy_node_needs_no_files_of_ours_and_ends_well(tmp_path: Path) -> None:
    status, output, errors = await node("--sysroot", str(plant(tmp_path, snp_files())))
    assert (status, errors) == (0, "")
    assert "good     verdict: SEV-SNP guests: this node can run them" in output
    assert output.endswith(" 0 bad\n")


async def test_what_is_bad_is_printed_with_its_next_step_and_ends_with_1(tmp_path: Path) -> None:
    files = {**without(tdx_files(), "proc/77"), "sys/module/kvm_intel/parameters/tdx": "N"}
    status, output, _ = await node("--sysroot", str(plant(tmp_path, files)))
    assert status == 1
    assert "BAD      kernel: kvm_intel.tdx: N\n         next: Add kvm_intel.tdx=1 nohibernate" in output
    assert "next: Start qgsd" in output


async def test_json_is_as_the_guests(tmp_path: Path) -> None:
    status, output, _ = await node(
        "--json", "--wanted", "tdx", "--sysroot", str(plant(tmp_path, snp_files()))
    )
    found = json.loads(output)
    assert (status, found["tee"], found["healthy"]) == (1, "tdx", False)
    (bad,) = [each for each in found["findings"] if each["verdict"] == "bad"]
    assert bad["area"] == "verdict"
    assert bad["next"]


async def test_this_machine_gets_a_verdict_too() -> None:
    status, output, errors = await node("--json", "--wanted", "snp")
    found = json.loads(output)
    assert errors == ""
    assert [each["area"] for each in found["findings"]].count("verdict") == 1
    assert status == (0 if found["healthy"] else 1)


async def test_a_bundle_is_refused_rather_than_left_out(tmp_path: Path) -> None:
    status, _, errors = await node("--bundle", str(tmp_path / "support.tar.gz"))
    assert status == 1
    assert "--json" in errors
    assert not (tmp_path / "support.tar.gz").exists()
