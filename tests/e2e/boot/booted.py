"""The running machine, as tests look at it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.e2e.boot.world import World
    from tests.e2e.vm.machine import Machine
    from tests.e2e.vm.wire import Result

AGENT: Final = "coco-agent.service"
_SOCKET: Final = "/run/confidential-containers/attestation-agent/attestation-agent.sock"
_BUSYBOX: Final = "/run/test/bin/busybox"


@dataclass(frozen=True, slots=True)
class Booted:
    """The machine and what is around it.

    Attributes:
        moments: seconds since the kernel started: ``init`` and ``systemd`` began, ``exec`` of the agent, its
            first ``socket``, the first workload's ``secret``.
        lives: of the agent so far.
    """

    machine: Machine
    world: World
    moments: Mapping[str, float]
    lives: list[str] = field(default_factory=lambda: ["first"])

    def run(self, *words: str) -> Result:
        """A program in the guest; ``detail`` is its exit status, ``data`` its output."""
        return self.machine.call("run", data="\n".join(words).encode())

    def shell(self, *words: str) -> Result:
        """One of busybox's, which only the test's disk has."""
        return self.run(_BUSYBOX, *words)

    def container(self, *words: str) -> Result:
        """A program in something like a container of the pod."""
        return self.run("/run/test/container", *words)


def show(machine: Machine, unit: str = "") -> dict[str, str]:
    """Properties of a unit, or of systemd itself."""
    words = ["/usr/bin/systemctl", "show", *([unit] if unit else [])]
    lines = machine.call("run", data="\n".join(words).encode()).data.decode().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def moments(machine: Machine) -> dict[str, float]:
    """See ``Booted.moments``; while the agent lives its first life."""
    lines = machine.call("read", "/run/marks").data.decode().splitlines()
    found = {name: float(value) for name, value in (line.split() for line in lines)}
    found["exec"] = int(show(machine, AGENT)["ExecMainStartTimestampMonotonic"]) / 1e6
    found["socket"] = float(machine.call("stat", _SOCKET).detail.split()[0])
    return found
