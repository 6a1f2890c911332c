"""Lines that several TEEs have in common."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from agent.doctor.finding import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agent.doctor.node.host import Node

ON = frozenset({"Y", "1"})
"""How module parameters spell yes."""


def judged(area: str, name: str, seen: str, *, good: bool, next_step: str) -> Finding:
    """Good, or bad with its next step."""
    return (
        Finding(area, name, Verdict.GOOD, seen) if good else Finding(area, name, Verdict.BAD, seen, next_step)
    )


def device(node: Node, name: str, next_step: str) -> Finding:
    """A device node that has to be there."""
    there = node.has(name)
    return judged("device", f"/{name}", "there" if there else "missing", good=there, next_step=next_step)


def kernel(node: Node, since: tuple[int, int], *, works: bool) -> Finding:
    """Whether the kernel is new enough; an older one that ``works`` has it from its distribution."""
    seen, wanted = node.release, ".".join(map(str, since))
    if node.version >= since:
        return Finding("kernel", "release", Verdict.GOOD, seen)
    if works:
        return Finding(
            "kernel", "release", Verdict.GOOD, f"{seen}, older than {wanted} but it has what is needed"
        )
    return Finding(
        "kernel",
        "release",
        Verdict.BAD,
        f"{seen}, older than {wanted}",
        f"Use Linux {wanted} or newer, or a distribution's kernel that says it has this TEE's host side.",
    )


def module(node: Node, name: str, parameter: str, *, off: str, old: str) -> Finding:
    """A KVM module's switch.

    Args:
        node: the node.
        name: of the module.
        parameter: its switch.
        off: next step when it is off.
        old: next step when the module does not have it.
    """
    value = node.text(f"sys/module/{name}/parameters/{parameter}")
    title = f"{name}.{parameter}"
    if value is not None:
        return judged("kernel", title, value, good=value in ON, next_step=off)
    if node.has(f"sys/module/{name}"):
        return Finding("kernel", title, Verdict.BAD, "this kernel's KVM does not have it", old)
    return Finding(
        "kernel",
        title,
        Verdict.BAD,
        f"{name} is not loaded",
        f"modprobe {name}. If that is refused, virtualisation is off in the firmware setup.",
    )


def room(node: Node, resource: str, next_step: str) -> Finding:
    """How many guests of the TEE fit at once."""
    area, name, count = "capacity", "guests at once", node.room(resource)
    if count is None:
        return Finding(area, name, Verdict.UNKNOWN, "the kernel does not say (cgroup controller misc)")
    return judged(area, name, str(count), good=count > 0, next_step=next_step)


def complaints(node: Node, known: Mapping[str, str]) -> Iterator[Finding]:
    """What the kernel said went wrong.

    Args:
        node: the node.
        known: pattern of a message to the next step.
    """
    log = node.kernel_log()
    if log is None:
        yield Finding("kernel", "log", Verdict.UNKNOWN, "/dev/kmsg cannot be read: run it as root")
        return
    for pattern, next_step in known.items():
        line = next((line for line in reversed(log) if re.search(pattern, line)), None)
        if line is not None:
            yield Finding("kernel", "log", Verdict.BAD, line, next_step)
