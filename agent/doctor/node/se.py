"""IBM Secure Execution on the host. Facts: the kernel's virt/kvm/s390/s390-pv.rst, Kata's SE guide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.doctor.node.findings import judged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.doctor.finding import Finding
    from agent.doctor.node.host import Node

_FACILITY: Final = "158"
_ULTRAVISOR: Final = "sys/firmware/uv/prot_virt_host"


def look(node: Node) -> Iterator[Finding]:
    """Everything a Secure Execution guest needs of its host."""
    there = _FACILITY in node.cpu("facilities").split()
    yield judged(
        "cpu",
        f"facility {_FACILITY}",
        "there" if there else "not there",
        good=there,
        next_step="Use an IBM z15 or LinuxONE III, or newer, with Secure Execution enabled.",
    )
    value = node.text(_ULTRAVISOR)
    yield judged(
        "kernel",
        f"/{_ULTRAVISOR}",
        "missing" if value is None else value,
        good=value == "1",
        next_step="Add prot_virt=1 to the kernel parameters in /etc/zipl.conf, run zipl, restart the node.",
    )
