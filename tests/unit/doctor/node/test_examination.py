"""Whole nodes: what is said of healthy ones, and of each thing that can be wrong with the hardware side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.doctor.finding import Finding, Verdict
from agent.doctor.node.host import Node
from tests.unit.doctor.node.trees import bad, cpuinfo, look, se_files, snp_files, tdx_files, verdict, without

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEALTHY: dict[str, Callable[[], dict[str, str]]] = {"snp": snp_files, "tdx": tdx_files, "se": se_files}


def named(found: list[Finding], name: str) -> Finding:
    (one,) = [each for each in found if each.name == name]
    return one


@pytest.mark.parametrize("tee", HEALTHY)
def test_a_healthy_node_is_good_all_over(tee: str, tmp_path: Path) -> None:
    found = look(tmp_path, HEALTHY[tee]())
    assert {each.verdict for each in found} == {Verdict.GOOD}, found
    assert verdict(found) is Verdict.GOOD


@pytest.mark.parametrize(("tee", "count"), [("snp", "99"), ("tdx", "63")])
def test_it_says_how_many_guests_fit(tee: str, count: str, tmp_path: Path) -> None:
    (capacity,) = [each for each in look(tmp_path, HEALTHY[tee]()) if each.area == "capacity"]
    assert (capacity.name, capacity.seen) == ("guests at once", count)


@pytest.mark.parametrize(
    ("tee", "gone", "says"),
    [
        ("snp", "dev/kvm", "/dev/kvm"),
        ("tdx", "dev/kvm", "/dev/kvm"),
        ("se", "dev/kvm", "/dev/kvm"),
        ("snp", "dev/vhost-vsock", "/dev/vhost-vsock"),
        ("snp", "dev/sev", "/dev/sev"),
        ("snp", "sys/class/iommu", "IOMMU"),
        ("snp", "sys/module/kvm_amd", "kvm_amd.sev_snp"),
        ("tdx", "sys/module/kvm_intel", "kvm_intel.tdx"),
        ("tdx", "dev/sgx_enclave", "/dev/sgx_enclave"),
        ("tdx", "dev/sgx_provision", "/dev/sgx_provision"),
        ("tdx", "proc/77", "generation service"),
        ("se", "sys/firmware/uv", "/sys/firmware/uv/prot_virt_host"),
    ],
)
def test_one_thing_that_is_missing_is_named_and_nothing_else(
    tee: str, gone: str, says: str, tmp_path: Path
) -> None:
    found = look(tmp_path, without(HEALTHY[tee](), gone))
    assert bad(found) == {says}
    assert verdict(found) is Verdict.BAD


@pytest.mark.parametrize(
    ("tee", "changed", "says", "step"),
    [
        ("snp", ("sys/module/kvm_amd/parameters/sev_snp", "N"), "kvm_amd.sev_snp", "sev_snp=1"),
        ("snp", ("sys/fs/cgroup/misc.capacity", "sev 509\nsev_es 0\n"), "guests at once", "minimum SEV ASID"),
        ("snp", ("proc/cmdline", "quiet iommu=pt"), "IOMMU", "command line"),
        ("snp", ("proc/cmdline", "amd_iommu=pgtbl_v2"), "IOMMU", "command line"),
        ("snp", ("proc/cpuinfo", cpuinfo("AuthenticAMD", 23, "svm sev sev_es")), "sev_snp", "EPYC 7003"),
        ("snp", ("proc/cpuinfo", cpuinfo("AuthenticAMD", 25, "svm")), "sev_snp", "firmware setup"),
        ("tdx", ("sys/module/kvm_intel/parameters/tdx", "N"), "kvm_intel.tdx", "kvm_intel.tdx=1 nohibernate"),
        ("tdx", ("proc/cpuinfo", cpuinfo("GenuineIntel", 6, "vmx")), "tdx_host_platform", "firmware setup"),
        ("tdx", ("sys/fs/cgroup/misc.capacity", "tdx 0\n"), "guests at once", "key split"),
        ("se", ("proc/cpuinfo", "vendor_id : IBM/S390\nfacilities : 1 1580\n"), "facility 158", "z15"),
        ("se", ("sys/firmware/uv/prot_virt_host", "0"), "/sys/firmware/uv/prot_virt_host", "prot_virt=1"),
    ],
)
def test_one_thing_that_is_wrong_is_named_with_its_next_step(
    tee: str, changed: tuple[str, str], says: str, step: str, tmp_path: Path
) -> None:
    name, content = changed
    found = look(tmp_path, {**HEALTHY[tee](), name: content})
    assert bad(found) == {says}
    assert step in named(found, says).next_step
    assert verdict(found) is Verdict.BAD


@pytest.mark.parametrize(
    ("tee", "said", "step"),
    [
        ("snp", "SEV-SNP: Memory for the RMP table has not been reserved by BIOS", "RMP table"),
        (
            "snp",
            "AMD-Vi: SNP: IOMMU disabled or configured in passthrough mode, SNP cannot be supported.",
            "iommu=pt",
        ),
        ("snp", "ccp 0000:22:00.1: SEV-SNP: failed to INIT rc -5, error 0x0", "SEV firmware"),
        ("tdx", "virt/tdx: initialization failed: Hibernation support is enabled", "nohibernate"),
        ("tdx", "virt/tdx: module initialization failed (-5)", "Update the firmware"),
        ("tdx", "kvm_intel: tdx: no TDX private KeyIDs available", "key split"),
    ],
)
def test_the_kernels_own_words_are_shown(tee: str, said: str, step: str, tmp_path: Path) -> None:
    found = look(
        tmp_path, {**HEALTHY[tee](), "dev/kmsg": f"6,1,1,-;booting\n3,2,2,-;{said}\n6,3,3,-;later\n"}
    )
    assert bad(found) == {"log"}
    assert named(found, "log").seen == said
    assert step in named(found, "log").next_step


def test_a_kernel_log_that_cannot_be_read_is_no_finding(tmp_path: Path) -> None:
    found = look(tmp_path, without(snp_files(), "dev/kmsg"))
    assert named(found, "log").verdict is Verdict.UNKNOWN
    assert verdict(found) is Verdict.GOOD


@pytest.mark.parametrize(
    ("tee", "release", "module"),
    [("snp", "6.8.0-45-generic", "kvm_amd"), ("tdx", "6.12.94+deb13", "kvm_intel")],
)
def test_a_kernel_that_is_too_old(tee: str, release: str, module: str, tmp_path: Path) -> None:
    parameters = f"sys/module/{module}/parameters"
    files = {**without(HEALTHY[tee](), parameters), f"{parameters}/other": "Y"}
    found = look(tmp_path, {**files, "proc/sys/kernel/osrelease": release})
    assert "release" in bad(found)
    assert "does not have it" in named(found, f"{module}.{'sev_snp' if tee == 'snp' else 'tdx'}").seen


def test_an_old_kernel_whose_distribution_ported_it_is_good(tmp_path: Path) -> None:
    found = look(tmp_path, {**snp_files(), "proc/sys/kernel/osrelease": "5.14.0-570.el9.x86_64"})
    assert verdict(found) is Verdict.GOOD
    assert "it has what is needed" in named(found, "release").seen


def test_the_quote_services_socket_will_do(tmp_path: Path) -> None:
    found = look(tmp_path, {**without(tdx_files(), "proc/77"), "run/tdx-qgs/qgs.socket": ""})
    assert bad(found) == set()
    assert "has to be 0" in named(found, "generation service").seen


@pytest.mark.parametrize(
    ("tee", "wanted", "says"),
    [("snp", "tdx", "AuthenticAMD"), ("tdx", "snp", "GenuineIntel"), ("snp", "az-snp-vtpm", "itself")],
)
def test_a_tee_that_this_cpu_cannot_have(tee: str, wanted: str, says: str, tmp_path: Path) -> None:
    found = look(tmp_path, HEALTHY[tee](), wanted)
    (one,) = [each for each in found if each.verdict is Verdict.BAD]
    assert (one.area, says in one.seen) == ("verdict", True)


def test_a_cpu_that_kata_has_no_tee_for(tmp_path: Path) -> None:
    files = {**snp_files(), "proc/cpuinfo": "processor : 0\nBogoMIPS : 50.00\nCPU implementer : 0x41\n"}
    assert verdict(look(tmp_path, files)) is Verdict.BAD


def test_a_node_that_is_a_guest_itself_is_warned_of(tmp_path: Path) -> None:
    flags = "svm sev sev_es sev_snp hypervisor"
    found = look(tmp_path, {**snp_files(), "proc/cpuinfo": cpuinfo("AuthenticAMD", 26, flags)})
    assert named(found, "kind").verdict is Verdict.WARNING
    assert verdict(found) is Verdict.GOOD


def test_an_empty_tree_is_judged_too(tmp_path: Path) -> None:
    assert verdict(look(tmp_path, {"proc/version": "x"})) is Verdict.BAD


def test_this_machine_is_what_it_says(tmp_path: Path) -> None:
    with open("/proc/sys/kernel/osrelease", encoding="ascii") as file:  # noqa: PTH123
        assert Node("/").release == file.read().strip()
    assert Node(str(tmp_path)).release  # a tree without the file: the running kernel's
