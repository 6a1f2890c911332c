"""All of it, in order: the machine, KVM, the TEE, a verdict; then Kata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from agent.doctor.finding import Finding, Verdict
from agent.doctor.node import kata, se, snp, tdx
from agent.doctor.node.findings import device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.doctor.node.host import Node

VERDICT: Final = "verdict"
"""Area of the one line that says whether the node can."""


class _Tee(NamedTuple):
    title: str
    cpu: str
    look: Callable[[Node], Iterator[Finding]]


_TEES: Final = {
    "snp": _Tee("SEV-SNP", "AuthenticAMD", snp.look),
    "tdx": _Tee("TDX", "GenuineIntel", tdx.look),
    "se": _Tee("Secure Execution", "IBM/S390", se.look),
}


def likely(node: Node) -> str:
    """The TEE that a node with this CPU can have; empty for none that Kata knows."""
    return next((name for name, tee in _TEES.items() if tee.cpu == node.cpu("vendor_id")), "")


def examine(node: Node) -> Iterator[Finding]:
    """Every finding, as soon as it is there."""
    tee = node.wanted or likely(node)
    vendor = node.cpu("vendor_id") or "unknown maker"
    yield Finding("node", "machine", Verdict.GOOD, f"{node.machine}, {node.cpu('model name') or vendor}")
    if "hypervisor" in node.cpu("flags").split():
        yield Finding(
            "node",
            "kind",
            Verdict.WARNING,
            "a virtual machine itself",
            "Few clouds nest confidential guests: use bare metal, or peer pods (runtime class kata-remote).",
        )
    if tee not in _TEES:
        yield _none(tee, vendor)
        return
    title, cpu, look = _TEES[tee]
    if vendor != cpu:
        yield Finding(
            VERDICT,
            f"{title} guests",
            Verdict.BAD,
            f"cannot: the CPU is of {vendor}",
            "Choose the runtime class by the CPU: kata-qemu-snp for AMD, -tdx for Intel, -se for IBM Z.",
        )
        return
    able = True
    for finding in _all(node, look):
        able = able and finding.verdict is not Verdict.BAD
        yield finding
    yield Finding(
        VERDICT,
        f"{title} guests",
        Verdict.GOOD if able else Verdict.BAD,
        "this node can run them, and they can attest" if able else "not yet",
        "" if able else "Do the next steps above, the first one first.",
    )
    yield from kata.look(node, tee)


def _all(node: Node, look: Callable[[Node], Iterator[Finding]]) -> Iterator[Finding]:
    yield device(
        node,
        "dev/kvm",
        "Switch virtualisation on in the firmware setup (SVM, VT-x), then modprobe kvm_amd or kvm_intel.",
    )
    yield device(node, "dev/vhost-vsock", "modprobe vhost_vsock: Kata talks to its guests over it.")
    yield from look(node)


def _none(tee: str, vendor: str) -> Finding:
    if tee:
        return Finding(
            VERDICT,
            f"{tee} guests",
            Verdict.BAD,
            "a worker node does not make them itself",
            "Known here: snp, tdx, se. A cloud's own (az-*) come with peer pods (kata-remote).",
        )
    return Finding(
        VERDICT,
        "confidential guests",
        Verdict.BAD,
        f"none that Kata knows for a CPU of {vendor}",
        "Use a node with AMD EPYC 7003 or newer, an Intel Xeon with TDX, or IBM z15 or newer.",
    )
