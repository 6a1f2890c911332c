"""Worker nodes made of files, as the kernel, Kata's installer and containerd leave them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.doctor.finding import Finding, Verdict
from agent.doctor.node.examination import examine
from agent.doctor.node.host import Node

if TYPE_CHECKING:
    from pathlib import Path

KATA = "opt/kata/share/defaults/kata-containers"
HANDLERS = "etc/containerd/conf.d/kata-deploy.toml"
GOOD_LOG = "6,1,100,-;Linux version 6.12.0\n SUBSYSTEM=none\n6,2,200,-;nothing to see\n"


def settings(tee: str, **changed: str) -> str:
    lines = {
        "path": '"/opt/kata/bin/qemu-system"',
        "kernel": '"/opt/kata/share/kata-containers/vmlinuz-confidential"',
        "image": '"/opt/kata/share/kata-containers/kata-confidential.img"',
        "confidential_guest": "true",
        "enable_annotations": '["enable_iommu", "kernel_params", "cc_init_data"]',
        **changed,
    }
    return "[hypervisor.qemu]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())


def handler(tee: str, *, snapshotter: str = "nydus", annotations: str = '["io.katacontainers.*"]') -> str:
    table = f"plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kata-qemu-{tee}"
    return (
        f"version = 3\n[{table}]\nruntime_type = 'io.containerd.kata-qemu-{tee}.v2'\n"
        f"pod_annotations = {annotations}\nsnapshotter = '{snapshotter}'\n"
    )


def _common(tee: str) -> dict[str, str]:
    return {
        "proc/sys/kernel/arch": "x86_64\n",
        "proc/sys/kernel/osrelease": "6.18.2\n",
        "proc/cmdline": "root=/dev/sda1 quiet\n",
        "dev/kvm": "",
        "dev/vhost-vsock": "",
        "dev/kmsg": GOOD_LOG,
        f"{KATA}/runtimes/qemu-{tee}/configuration-qemu-{tee}.toml": settings(tee),
        "opt/kata/bin/qemu-system": "",
        "opt/kata/share/kata-containers/vmlinuz-confidential": "",
        "opt/kata/share/kata-containers/kata-confidential.img": "",
        HANDLERS: handler(tee),
        "run/nydus-snapshotter/containerd-nydus-grpc.sock": "",
    }


def cpuinfo(vendor: str, family: int, flags: str) -> str:
    one = (
        f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel name\t: A server's CPU\n"
        f"flags\t\t: fpu vme {flags} rdrand\n\n"
    )
    return one + one.replace("processor\t: 0", "processor\t: 1")


def snp_files() -> dict[str, str]:
    return {
        **_common("snp"),
        "proc/cpuinfo": cpuinfo("AuthenticAMD", 25, "svm sme sev sev_es sev_snp"),
        "sys/module/kvm_amd/parameters/sev_snp": "Y\n",
        "sys/class/iommu/ivhd0/x": "",
        "sys/class/iommu/ivhd1/x": "",
        "sys/fs/cgroup/misc.capacity": "sev 410\nsev_es 99\n",
        "dev/sev": "",
    }


def tdx_files() -> dict[str, str]:
    return {
        **_common("tdx"),
        "proc/cpuinfo": cpuinfo("GenuineIntel", 6, "vmx tme tdx_host_platform"),
        "proc/cmdline": "root=/dev/sda1 kvm_intel.tdx=1 nohibernate\n",
        "dev/kmsg": "6,1,1,-;virt/tdx: BIOS enabled: private KeyID range [64, 128)\n"
        "6,2,2,-;virt/tdx: module initialized\n",
        "sys/module/kvm_intel/parameters/tdx": "Y\n",
        "sys/fs/cgroup/misc.capacity": "tdx 63\n",
        "dev/sgx_enclave": "",
        "dev/sgx_provision": "",
        "proc/77/comm": "qgs\n",
        "proc/1/comm": "systemd\n",
    }


def se_files() -> dict[str, str]:
    return {
        **_common("se"),
        "proc/sys/kernel/arch": "s390x\n",
        "proc/cpuinfo": "vendor_id       : IBM/S390\n# processors    : 4\n"
        "facilities      : 0 1 2 3 4 6 7 8 156 158 161 165\n",
        "proc/cmdline": "root=/dev/dasda1 prot_virt=1\n",
        "sys/firmware/uv/prot_virt_host": "1\n",
    }


def plant(root: Path, files: dict[str, str]) -> Path:
    """Lay a tree; a name whose content is ``None``-like is simply left out by the caller."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def without(files: dict[str, str], *names: str) -> dict[str, str]:
    """A tree that lacks some files, or whole folders."""
    gone = {name for name in files if any(name == each or name.startswith(f"{each}/") for each in names)}
    assert gone, "what is to be left out is not there"
    return {name: content for name, content in files.items() if name not in gone}


def look(root: Path, files: dict[str, str], wanted: str = "") -> list[Finding]:
    """What the doctor says of a tree. Whatever is not good has its next step."""
    found = list(examine(Node(str(plant(root, files)), wanted)))
    assert all(each.next_step for each in found if each.verdict in {Verdict.BAD, Verdict.WARNING})
    return found


def bad(found: list[Finding]) -> set[str]:
    """Names of what is bad, except the verdict that follows from them."""
    return {each.name for each in found if each.verdict is Verdict.BAD and each.area != "verdict"}


def verdict(found: list[Finding]) -> Verdict:
    (one,) = [each for each in found if each.area == "verdict"]
    return one.verdict
