"""AMD SEV-SNP on the host. Facts: the kernel's arch/x86/virt/svm/sev.c, its IOMMU driver, Kata's guide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.doctor.finding import Finding, Verdict
from agent.doctor.node.findings import ON, complaints, device, judged, kernel, module, room

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.doctor.node.host import Node

_FIRMWARE: Final = (
    "In the firmware setup switch on SMEE (memory encryption), SEV-SNP and the coverage of the RMP table, "
    "and set the minimum SEV ASID above 1."
)
_KERNEL: Final = (6, 11)
"""First with the host side in KVM (and what Kata's guide asks for)."""
_MILAN: Final = 25
"""Family of EPYC 7003, the first with SNP. Desktop CPUs of the family do not have it."""
_COMPLAINTS: Final = {
    r"RMP table has not been reserved by BIOS": _FIRMWARE,
    r"SNP: IOMMU disabled or configured in passthrough": "Remove iommu=pt and amd_iommu=off from the kernel "
    "command line, switch the IOMMU on in the firmware setup, restart the node.",
    r"SNP: IOMMU is configured with V2 page table": "Remove amd_iommu=pgtbl_v2 from the kernel command line.",
    r"SNP: IOMMU SNP feature not enabled": "Switch the IOMMU and SEV-SNP on in the firmware setup.",
    r"SEV(-SNP)?: failed to INIT": "Update the SEV firmware (part of the maker's updates); restart the node.",
}
_NO_IOMMU: Final = frozenset(
    {"iommu=pt", "iommu=off", "iommu.passthrough=1", "amd_iommu=off", "amd_iommu=pgtbl_v2"}
)


def look(node: Node) -> Iterator[Finding]:
    """Everything an SNP guest needs of its host."""
    yield _cpu(node)
    yield kernel(node, _KERNEL, works=node.text("sys/module/kvm_amd/parameters/sev_snp") in ON)
    yield module(
        node,
        "kvm_amd",
        "sev_snp",
        off="Other bad lines say why. If there are none: modprobe -r kvm_amd && modprobe kvm_amd sev_snp=1",
        old=f"Use Linux {_KERNEL[0]}.{_KERNEL[1]} or newer with CONFIG_KVM_AMD_SEV.",
    )
    yield device(
        node,
        "dev/sev",
        "modprobe ccp. If that helps not, the platform security processor is off in the firmware.",
    )
    yield _iommu(node)
    yield room(
        node,
        "sev_es",
        "Raise the minimum SEV ASID in the firmware setup: SNP guests get those below it.",
    )
    yield from complaints(node, _COMPLAINTS)


def _cpu(node: Node) -> Finding:
    family = node.cpu("cpu family")
    if family.isdecimal() and int(family) < _MILAN:
        return Finding(
            "cpu",
            "sev_snp",
            Verdict.BAD,
            f"family {family} is too old for SEV-SNP",
            "Use a machine with EPYC 7003 (Milan) or newer.",
        )
    there = "sev_snp" in node.cpu("flags").split()
    return judged(
        "cpu",
        "sev_snp",
        "the kernel sees SEV-SNP"
        if there
        else "the kernel sees no SEV-SNP: off in firmware, or not in this CPU",
        good=there,
        next_step=_FIRMWARE,
    )


def _iommu(node: Node) -> Finding:
    against = _NO_IOMMU.intersection(node.parameters)
    if against:
        return Finding(
            "kernel",
            "IOMMU",
            Verdict.BAD,
            f"{', '.join(sorted(against))}: SNP needs it on, without passthrough",
            "Remove that from the kernel command line and restart the node.",
        )
    try:
        units = sorted(unit.name for unit in node.path("sys/class/iommu").iterdir())
    except OSError:
        units = []
    return judged(
        "kernel",
        "IOMMU",
        f"{len(units)} units" if units else "none",
        good=bool(units),
        next_step="Switch the IOMMU on in the firmware setup.",
    )
