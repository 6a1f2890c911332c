"""Answers the test's calls in the booted root (``Call.op``), beside those of ``tests.e2e.vm.guest.main``."""

from __future__ import annotations

import io
import subprocess
import time
from pathlib import Path

from agent.cli.connect import ask_hub
from agent.config.model import CDH_SOCKET
from tests.e2e.vm.guest.main import Guest, serve
from tests.e2e.vm.wire import Call, Result


class Commands(Guest):
    """One method for each ``Call.op``."""

    # The root has no library for it; the test's disk has all.
    swtpm = (
        "/run/test/swtpm/ld-linux-x86-64.so.2",
        "--library-path",
        "/run/test/swtpm",
        "/run/test/swtpm/swtpm",
    )

    def run(self, call: Call) -> Result:
        """A program; arguments are lines of ``data``. ``detail`` is its exit status, ``data`` its output."""
        done = subprocess.run(call.data.decode().splitlines(), check=False, capture_output=True)
        return Result(detail=str(done.returncode), data=done.stdout, lines=done.stderr.decode().splitlines())

    def unseal(self, call: Call) -> Result:
        """What kata-agent does with a sealed secret."""
        return Result(
            data=ask_hub(CDH_SOCKET, call.seconds, lambda hub, end: hub.unseal(call.data, end)).reveal()
        )

    def unwrap(self, call: Call) -> Result:
        """What image-rs does with a layer's key packet."""
        got = ask_hub(CDH_SOCKET, call.seconds, lambda hub, end: hub.unwrap_key(call.data, end))
        return Result(data=got.reveal())

    def memory(self, call: Call) -> Result:
        """``pid kB name`` for each process of a unit."""
        group = Path("/sys/fs/cgroup/system.slice", call.name, "cgroup.procs").read_text()
        return Result(lines=[_resident(pid) for pid in group.split()])

    def stat(self, call: Call) -> Result:
        """Seconds since boot at which a file got its name (``detail``), mode and owner."""
        found = Path(call.name).stat()
        offset = time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_BOOTTIME)
        return Result(detail=f"{found.st_ctime - offset:.3f} {found.st_mode:o} {found.st_uid}")


def _resident(pid: str) -> str:
    status = Path("/proc", pid, "status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    return f"{pid} {fields['VmRSS'].split()[0]} {fields['Name']}"


if __name__ == "__main__":
    serve(Commands(io.BytesIO()))  # the hardware's port belongs to ``hardware``
    subprocess.run(["/usr/bin/systemctl", "poweroff"], check=False)
