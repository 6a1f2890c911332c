"""Where a memory cgroup may be made, from what the kernel says; and what is written there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import cgroup
from tests.cgroup import V1, V2, Group, confine, parents

HYBRID = """\
24 20 0:21 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
25 24 0:22 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
26 24 0:23 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
"""


def unified(top: Path, root: str = "/") -> str:
    return f"30 24 0:26 {root} {top} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_version_1_where_only_that_has_the_controller(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("hugetlb\n")
    found = list(parents("4:memory:/\n0::/\n", unified(tmp_path) + HYBRID))
    assert found == [(Path("/sys/fs/cgroup/memory"), V1)]


def test_version_2_comes_first(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu memory pids\n")
    found = list(parents("4:memory:/\n0::/\n", HYBRID + unified(tmp_path)))
    assert [names for _, names in found] == [V2, V1]


def test_the_own_group_is_tried_after_the_mount(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    found = list(parents("0::/user.slice/run-1.scope\n", unified(tmp_path)))
    assert found == [(tmp_path, V2), (tmp_path / "user.slice/run-1.scope", V2)]


@pytest.mark.parametrize("own", ["/kubepods/pod1", "/system.slice"])
def test_a_container_sees_its_own_group_as_the_mount(tmp_path: Path, own: str) -> None:
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    assert list(parents(f"0::{own}\n", unified(tmp_path, "/kubepods/pod1"))) == [(tmp_path, V2)]


def test_nothing_is_found_where_nothing_is_mounted() -> None:
    assert list(parents("", HYBRID.splitlines()[0])) == []


def test_no_swap_is_another_number_in_each_version(tmp_path: Path) -> None:
    for names in (V1, V2):
        (tmp_path / names.swap).write_text("max")
        confine(tmp_path, names, 1 << 28)
    assert (tmp_path / "memory.memsw.limit_in_bytes").read_text() == str(1 << 28)
    assert (tmp_path / "memory.swap.max").read_text() == "0"
    assert (tmp_path / "memory.max").read_text() == str(1 << 28)


def test_swap_that_is_not_counted_is_not_limited(tmp_path: Path) -> None:
    confine(tmp_path, V2, 1 << 28)
    assert [path.name for path in tmp_path.iterdir()] == ["memory.max"]


def test_the_kernels_count_of_ended_processes(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n")
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert Group(tmp_path, V2).killed() == 1
    assert Group(tmp_path, V1).killed() == 3


@pytest.fixture
def _no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "parents", lambda own, mounts: iter(()))


@pytest.mark.usefixtures("_no_group")
def test_without_a_group_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    assert "no memory controller is mounted" in cgroup.missing()


@pytest.mark.usefixtures("_no_group")
def test_in_ci_that_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(cgroup.CgroupError, match="Run as root"):
        cgroup.missing()


def test_a_folder_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(cgroup, "parents", lambda own, mounts: iter([(tmp_path / "absent", V1)]))
    assert f"{tmp_path}/absent: No such file or directory" in cgroup.missing()
