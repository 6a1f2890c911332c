"""What is said of Kata's settings and of what containerd and CRI-O hand to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.doctor.finding import Finding, Verdict
from tests.unit.doctor.node.trees import (
    HANDLERS,
    KATA,
    bad,
    handler,
    look,
    plant,
    settings,
    snp_files,
    verdict,
    without,
)

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = "configuration-qemu-snp.toml"
FILE = f"{KATA}/runtimes/qemu-snp/{SETTINGS}"


def of(found: list[Finding], name: str) -> Finding:
    (one,) = [each for each in found if (each.area, each.name) == ("kata", name)]
    return one


def test_a_node_without_kata_is_able_but_not_ready(tmp_path: Path) -> None:
    found = look(tmp_path, without(snp_files(), "opt/kata", HANDLERS))
    assert verdict(found) is Verdict.GOOD
    assert bad(found) == {"settings", "handler"}


def test_settings_of_another_tee_do_not_count(tmp_path: Path) -> None:
    files = without(snp_files(), FILE)
    files[f"{KATA}/configuration-qemu-tdx.toml"] = settings("tdx")
    assert bad(look(tmp_path, files)) == {"settings"}


def test_the_installers_link_is_not_counted_twice(tmp_path: Path) -> None:
    plant(tmp_path, snp_files())
    (tmp_path / KATA / SETTINGS).symlink_to(f"runtimes/qemu-snp/{SETTINGS}")
    assert of(look(tmp_path, {}), SETTINGS).verdict is Verdict.GOOD


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"confidential_guest": "false"}, "confidential_guest"),
        ({"firmware": '"/opt/kata/share/ovmf/AMDSEV.fd"'}, "/opt/kata/share/ovmf/AMDSEV.fd"),
    ],
)
def test_settings_that_cannot_work(changed: dict[str, str], says: str, tmp_path: Path) -> None:
    found = look(tmp_path, {**snp_files(), FILE: settings("snp", **changed)})
    assert bad(found) == {SETTINGS}
    assert says in of(found, SETTINGS).seen


def test_settings_that_are_no_toml(tmp_path: Path) -> None:
    assert bad(look(tmp_path, {**snp_files(), FILE: "[hypervisor.qemu\n"})) == {SETTINGS}


def test_annotations_that_kata_would_refuse_are_said(tmp_path: Path) -> None:
    found = look(
        tmp_path, {**snp_files(), FILE: settings("snp", enable_annotations='["default_.*", "cc_init_data"]')}
    )
    assert of(found, SETTINGS).verdict is Verdict.WARNING
    assert of(found, SETTINGS).seen.endswith("annotation kernel_params")


def test_a_drop_in_file_changes_the_settings(tmp_path: Path) -> None:
    files = snp_files()
    files[f"{KATA}/runtimes/qemu-snp/config.d/10-mine.toml"] = "[hypervisor.qemu]\nenable_annotations = []\n"
    assert "cc_init_data" in of(look(tmp_path, files), SETTINGS).seen


@pytest.mark.parametrize("annotations", ["[]", '["io.kubernetes.*"]'])
def test_containerd_that_drops_annotations_is_found_out(annotations: str, tmp_path: Path) -> None:
    found = look(tmp_path, {**snp_files(), HANDLERS: handler("snp", annotations=annotations)})
    assert bad(found) == {"handler kata-qemu-snp"}
    assert "io.katacontainers.*" in of(found, "handler kata-qemu-snp").next_step


def test_containerd_and_cri_o_side_by_side(tmp_path: Path) -> None:
    files = {**snp_files(), "etc/crio/crio.conf.d/99-kata-deploy": "[crio.runtime.runtimes.kata-qemu-snp]\n"}
    assert bad(look(tmp_path, files)) == set()


def test_a_snapshotter_that_does_not_run(tmp_path: Path) -> None:
    assert bad(look(tmp_path, without(snp_files(), "run"))) == {"guest pull"}


@pytest.mark.parametrize(
    ("forced", "verdict_then"),
    [
        ("experimental_force_guest_pull = true", Verdict.GOOD),
        ('experimental = ["force_guest_pull"]', Verdict.GOOD),  # runtime-rs
        ("experimental_force_guest_pull = false\nexperimental = []", Verdict.WARNING),
    ],
)
def test_without_a_snapshotter_kata_has_to_be_told(
    forced: str, verdict_then: Verdict, tmp_path: Path
) -> None:
    files = {**snp_files(), HANDLERS: handler("snp", snapshotter="overlayfs")}
    files[FILE] = f"{settings('snp')}[runtime]\n{forced}\n"
    assert of(look(tmp_path, files), "guest pull").verdict is verdict_then


@pytest.mark.parametrize(
    "where",
    [
        "etc/containerd/config.toml",
        "opt/kata/containerd/config.d/kata-deploy.toml",
        "var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d/kata-deploy.toml",
    ],
)
def test_handlers_are_found_where_the_installer_puts_them(where: str, tmp_path: Path) -> None:
    files = {**without(snp_files(), HANDLERS), where: handler("snp")}
    assert bad(look(tmp_path, files)) == set()


def test_cri_o_pulls_in_the_guest_by_its_own_switch(tmp_path: Path) -> None:
    files = without(snp_files(), HANDLERS, "run")
    files["etc/crio/crio.conf.d/99-kata-deploy"] = (
        "[crio.runtime.runtimes.kata-qemu-snp]\nruntime_type = 'vm'\nruntime_pull_image = true\n"
    )
    found = look(tmp_path, files)
    assert bad(found) == set()
    assert "CRI-O" in of(found, "guest pull").seen
