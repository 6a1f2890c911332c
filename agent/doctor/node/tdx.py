"""Intel TDX on the host. Facts: the kernel's arch/x86/tdx.rst, Intel's enabling guide, Kata's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.doctor.node.findings import ON, complaints, device, judged, kernel, module, room

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.doctor.finding import Finding
    from agent.doctor.node.host import Node

_KERNEL: Final = (6, 16)
"""First whose KVM makes TDX guests; distributions have it earlier."""
_FIRMWARE: Final = (
    "In the firmware setup switch on TME-MT (multi-key memory encryption), TDX with its key split above 0, "
    "and SGX."
)
_SWITCH: Final = "Add kvm_intel.tdx=1 nohibernate to the kernel command line and restart the node."
_COMPLAINTS: Final = {
    r"virt/tdx: initialization failed: Hibernation": _SWITCH,
    r"no TDX private KeyIDs available": _FIRMWARE,
    r"virt/tdx: (?!initialization failed: Hibernation).*(failed|error)": (
        "Update the firmware, which carries the TDX module; restart the node."
    ),
}
_QGS: Final = "run/tdx-qgs/qgs.socket"


def look(node: Node) -> Iterator[Finding]:
    """Everything a TDX guest, and its quotes, need of its host."""
    there = "tdx_host_platform" in node.cpu("flags").split()
    yield judged(
        "cpu",
        "tdx_host_platform",
        "the firmware has TDX on"
        if there
        else "off in firmware, not in this CPU, or a kernel without INTEL_TDX_HOST",
        good=there,
        next_step=_FIRMWARE,
    )
    yield kernel(node, _KERNEL, works=node.text("sys/module/kvm_intel/parameters/tdx") in ON)
    yield module(
        node,
        "kvm_intel",
        "tdx",
        off=_SWITCH,
        old=f"Use Linux {_KERNEL[0]}.{_KERNEL[1]} or newer with CONFIG_KVM_INTEL_TDX.",
    )
    yield room(node, "tdx", "Give TDX more keys in the firmware setup (key split).")
    yield from complaints(node, _COMPLAINTS)
    for name in ("dev/sgx_enclave", "dev/sgx_provision"):
        yield device(
            node, name, "Switch SGX on in the firmware setup: quotes are signed in an enclave on the host."
        )
    yield _quotes(node)


def _quotes(node: Node) -> Finding:
    seen = _service(node)
    return judged(
        "quotes",
        "generation service",
        seen or f"no process qgs and no /{_QGS}",
        good=bool(seen),
        next_step="Start qgsd (package tdx-qgs of Intel's DCAP), or TDX guests run but cannot attest. Kata's "
        "tdx_quote_generation_service_socket_port has to agree with it: a vsock port, or 0 for the socket.",
    )


def _service(node: Node) -> str:
    if node.has(_QGS):
        return f"/{_QGS}: Kata's tdx_quote_generation_service_socket_port has to be 0"
    for process in node.path("proc").glob("[0-9]*/comm"):
        try:
            name = process.read_bytes()[:32].strip()
        except OSError:  # it has ended
            continue
        if name in {b"qgs", b"qgsd"}:
            return f"process {process.parent.name}"
    return ""
