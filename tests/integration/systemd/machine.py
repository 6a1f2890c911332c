"""A real systemd as process 1 of a container: this machine's files under an overlay, a network of its own.

systemd-nspawn starts it. Everything it mounts and writes ends with it: the overlay is on a tmpfs, in a mount
namespace of its own. All of the units is in effect, but memory limits where cgroup2 has no memory controller.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import tomllib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).resolve().parents[3]
UNITS: Final = ROOT / "systemd"
TOOLS: Final = ("systemd-nspawn", "nsenter", "unshare", "ip", "ss", "pgrep", "curl")
PYTHON: Final = "/opt/coco/python/bin/python3"

# An interpreter that was not installed by the distribution looks for its library where it was installed.
_LIBRARIES: Final = {"LD_LIBRARY_PATH": "/opt/coco/python/lib"}

_TARGET = "[Unit]\nRequires=sysinit.target\nAfter=sysinit.target\n"
# $1: files to add, $2: this interpreter, $3: its packages, $4: the agent, $5: an empty folder.
# Device lists and IP filters of units are BPF programs.
_BOOT = """
set -eu
mount -t tmpfs -o mode=755 coco-test "$5"
mkdir "$5/upper" "$5/work" "$5/root"
mount -t overlay -o "lowerdir=/,upperdir=$5/upper,workdir=$5/work" overlay "$5/root"
cp -a "$1/." "$5/root"
mkdir -p "$5/root/opt/coco/python" "$5/root/opt/coco/site" "$5/root/opt/coco/agent/agent"
mount --bind "$2" "$5/root/opt/coco/python"
mount --bind "$3" "$5/root/opt/coco/site"
mount --bind "$4" "$5/root/opt/coco/agent/agent"
exec systemd-nspawn --quiet --directory="$5/root" --register=no --keep-unit --private-network \\
  --console=pipe --kill-signal=SIGKILL --system-call-filter=bpf \\
  --capability=CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON --boot -- --unit=coco-test.target --show-status=no
"""


def missing() -> str:
    """Why there can be no such machine; empty if there can."""
    if os.geteuid() != 0:
        return "needs root"
    gone = [tool for tool in TOOLS if shutil.which(tool) is None]
    if gone:
        return f"needs {', '.join(gone)} (Debian: systemd-container, util-linux, iproute2, procps, curl)"
    return "" if _cgroups() is not None else "needs a cgroup2 hierarchy"


def _cgroups() -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 "):
            return Path(fields.split(" ")[4])
    return None


@dataclass(slots=True)
class Machine:
    """The container, seen from outside."""

    init: int

    def run(self, *command: str, check: bool = True, seconds: float = 60) -> str:
        """A command inside, as root; its standard output."""
        inside = ("nsenter", f"--target={self.init}", "--all", "--root", "--wd", "--", *command)
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **_LIBRARIES}
        done = subprocess.run(
            inside, check=False, capture_output=True, text=True, timeout=seconds, env=environment
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stdout}{done.stderr}\n{self.journal()}")
        return done.stdout

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        return self.run("systemctl", *arguments, check=check)

    def journal(self, unit: str = "") -> str:
        chosen = ["--unit", unit] if unit else []
        inside = ("nsenter", f"--target={self.init}", "--all", "--root", "--wd", "--")
        command = (*inside, "journalctl", "--no-pager", "--lines=200", "--output=cat", *chosen)
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        lines = self.systemctl("show", unit, *(f"--property={name}" for name in properties)).splitlines()
        return dict(line.split("=", 1) for line in lines)

    def main_pid(self, unit: str) -> int:
        """As numbered inside."""
        return int(self.show(unit, "MainPID")["MainPID"])

    def until(self, unit: str, seconds: float = 30, **wanted: str) -> dict[str, str]:
        """Wait until properties of a unit have these values."""
        end = time.monotonic() + seconds
        while True:
            shown = self.show(unit, *wanted)
            if shown == wanted:
                return shown
            if time.monotonic() > end:
                raise AssertionError(f"{unit}: {shown}, not {wanted}\n{self.journal()}")
            time.sleep(0.05)

    def get(self, path: str, *, within: str = "", check: bool = True, host: str = "127.0.0.1") -> str:
        """REST, from inside, or from inside one of its network namespaces."""
        where = ("ip", "netns", "exec", within) if within else ()
        return self.run(*where, "curl", "-gsS", "--fail-with-body", f"http://{host}:8006{path}", check=check)

    def write(self, path: str, text: str, mode: int = 0o600) -> None:
        code = "import os,sys; d,t,m=sys.argv[1:]; os.makedirs(os.path.dirname(d),exist_ok=True); "
        code += "open(d,'w').write(t); os.chmod(d,int(m))"
        self.run(PYTHON, "-I", "-c", code, path, text, str(mode))

    def drop_in(self, unit: str, text: str) -> None:
        """Change a unit, as an operator would."""
        self.write(f"/etc/systemd/system/{unit}.d/test.conf", text, 0o644)
        self.systemctl("daemon-reload")

    def probe(self, code: str, *arguments: str) -> Mapping[str, str]:
        """What Python code that prints a JSON object finds out inside."""
        found: Mapping[str, str] = json.loads(self.run(PYTHON, "-I", "-c", code, *arguments))
        return found


def _files(folder: Path, units: Sequence[Path]) -> None:
    """What is put over the machine's own files."""
    system = folder / "etc/systemd/system"
    system.mkdir(parents=True)
    for unit in (unit for one in units for unit in one.iterdir()):
        shutil.copy(unit, system)
    (system / "coco-test.target").write_text(_TARGET)
    manager = folder / "etc/systemd/system.conf.d"
    manager.mkdir()
    assignments = " ".join(f"{name}={value}" for name, value in _LIBRARIES.items())
    (manager / "test.conf").write_text(f"[Manager]\nDefaultEnvironment={assignments}\n")
    programs = folder / "usr/local/bin"
    programs.mkdir(parents=True)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for name, entry in scripts.items():
        module, _, function = entry.partition(":")
        program = programs / name
        program.write_text(
            f"#!{PYTHON} -IB\nimport sys\nsys.path[:0] = ['/opt/coco/agent', '/opt/coco/site']\n"
            f"from {module} import {function}\nsys.exit({function}())\n"
        )
        program.chmod(0o755)


@contextmanager
def booted(folder: Path, units: Sequence[Path]) -> Iterator[Machine]:
    """The machine with the units of these folders, until the end of the block; later ones replace earlier."""
    overlay, scratch = folder / "overlay", folder / "scratch"
    scratch.mkdir()
    _files(overlay, units)
    hierarchy = _cgroups()
    assert hierarchy is not None
    group = hierarchy / f"coco-test-{os.getpid()}-{os.urandom(3).hex()}"
    group.mkdir()
    start = f'echo $$ > {group}/cgroup.procs; exec unshare --mount --propagation private sh -c "$0" sh "$@"'
    given = (overlay, sys.base_prefix, sysconfig.get_path("platlib"), ROOT / "agent", scratch)
    with (folder / "console").open("wb") as console:
        boss = subprocess.Popen(
            ["sh", "-c", start, _BOOT, *map(str, given)],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            env={"PATH": os.environ["PATH"], "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )
    try:
        yield _up(boss, folder / "console")
    finally:
        _kill_all(group)
        boss.wait(30)
        for child in sorted((p for p in group.rglob("*") if p.is_dir()), reverse=True):
            child.rmdir()
        group.rmdir()


def _up(boss: subprocess.Popen[bytes], console: Path) -> Machine:
    end = time.monotonic() + 60
    while time.monotonic() < end and boss.poll() is None:
        for init in _children(boss.pid):
            machine = Machine(init)
            if machine.run("systemctl", "is-active", "coco-test.target", check=False).strip() == "active":
                return machine
        time.sleep(0.1)
    raise AssertionError(f"systemd did not come up: {console.read_text(errors='replace')}")


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _kill_all(group: Path) -> None:
    """Everything in our own cgroup, and nothing else."""
    for _ in range(100):
        left = [int(pid) for procs in group.rglob("cgroup.procs") for pid in procs.read_text().split()]
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
