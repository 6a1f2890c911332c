"""kata-agent, as far as the guest components can tell; runs in namespaces of its own.

Started by ``guest.py`` with the guest's root folder and the HOSTDATA of the simulated SEV-SNP machine. It
keeps to what the sheet says and no more: one socket file is deleted and one program started after the other,
its file is looked for once a second, the hub is connected to once, and nobody is started again.
"""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent.devkit.guests import guest
from agent.devkit.kbs import DevKbs, Settings
from tests.integration.kata import wire
from tests.integration.kata.plan import Asked, Process, built_in, from_manifest
from tests.integration.late_network import PORT, bring_up
from tests.integration.mini_ttrpc import MiniClient, text
from tests.integration.support import http
from tests.kata import AA_SOCKET, CDH_SOCKET, INIT_DATA

if TYPE_CHECKING:
    from agent.devkit.guests import SimulatedGuest

SIGNING_KEY: Final = "default/signing-key/sealed-secret"
REST: Final = "http://127.0.0.1:8006"

NOFILE: Final = 1 << 30
"""``LimitNOFILE`` of kata-agent's unit. Without CAP_SYS_RESOURCE the hard limit there is stands for it."""

_CONTAINER_AFTER: Final = 30
"""Tenths of a second."""

_NR_OPEN: Final = Path("/proc/sys/fs/nr_open")
_INIT_PATH: Final = "/bin:/sbin/:/usr/bin/:/usr/sbin/"
_SYSTEMD_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"


class AgentEndError(Exception):
    """kata-agent ends, and the machine with it."""


class KataAgent:
    """One boot."""

    def __init__(self, root: Path, kbs: DevKbs) -> None:
        self._root = root
        self._kbs = kbs
        self._console = (root.parent / "console.log").open("ab", buffering=0)
        self._plan: dict[str, Process] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._told = wire.Told()
        self._systemd = True
        self._cdh: MiniClient | None = None
        self._stream = 1

    def _there(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    async def boot(self, word: wire.Boot) -> wire.Told:
        bring_up("lo")
        self._systemd = word.systemd
        for name, content in word.files.items():
            file = self._there(f"{INIT_DATA}/{name}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        (self._root.parent / "cmdline").write_text(word.cmdline)
        asked = Asked(word.procs, word.features, word.timeout, lambda path: self._there(path).exists())
        if word.extension:
            manifest = self._there(f"{word.extension}/etc/kata-extensions/components.toml").read_text()
            plan = from_manifest(manifest, asked)
        else:
            plan = built_in(asked)
        if all(self._there(process.path).exists() for process in plan):
            for process in plan:
                await self._launch(process)
        self._probe_hub()
        return self._told

    async def _launch(self, process: Process) -> None:
        """Delete the socket, start, and look for the file once a second, ``timeout + 1`` times."""
        with suppress(FileNotFoundError):
            if process.socket:
                self._there(process.socket).unlink()
        self._plan[process.name] = process
        self._start(process)
        began = time.monotonic()
        if not process.socket:
            return
        task = asyncio.create_task(self._measure(process, began))
        try:
            for _ in range(process.timeout + 1):
                await asyncio.sleep(1)
                if self._there(process.socket).exists():
                    found = (path for path in (AA_SOCKET, CDH_SOCKET) if self._there(path).exists())
                    self._told.sockets[process.name] = list(found)
                    return
        finally:
            task.cancel()
        raise AgentEndError(f"{process.name}: no socket")

    async def _measure(self, process: Process, began: float) -> None:
        """Beside what kata-agent does: when the file was there."""
        while not self._there(process.socket).exists():  # noqa: ASYNC110 - a file, as kata-agent sees it
            await asyncio.sleep(0.005)
        self._told.seconds[process.name] = time.monotonic() - began

    def _start(self, process: Process) -> None:
        environ = {"PATH": _SYSTEMD_PATH if self._systemd else _INIT_PATH, "RUST_BACKTRACE": "full"}
        limit = f"{_most()}:{_most()}" if self._systemd else "1024:4096"
        self._children[process.name] = subprocess.Popen(
            ["prlimit", f"--nofile={limit}", "chroot", str(self._root), process.path, *process.arguments],
            env={**environ, **process.environ},
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=self._console,
        )

    def _probe_hub(self) -> None:
        """Connect at once to what is a socket: refused would end kata-agent. Nothing there is no error."""
        path = self._there(CDH_SOCKET)
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            self._cdh = MiniClient(path)
            self._cdh.socket.settimeout(50)

    async def unseal(self, word: wire.Unseal) -> wire.Told:
        if self._cdh is None:
            return wire.Told(error="not initialized", code=-1)
        asked = (self._stream, "api.SealedSecretService", "UnsealSecret", text(1, word.secret))
        self._stream += 2
        _, code, message, payload = await asyncio.to_thread(self._cdh.ask, *asked)
        return wire.Told(error=message, code=code, body=payload[2:] if not code else b"")

    async def network(self, _: wire.Network) -> wire.Told:
        (self._root.parent / "hosts").write_text("127.0.0.1 localhost kbs.test\n")
        await self._kbs.start(port=PORT)
        return wire.Told()

    async def get(self, word: wire.Get) -> wire.Told:
        # kata-agent does not wait for the gateway; containers come later, after the runtime's calls.
        for _ in range(_CONTAINER_AFTER):
            try:
                answer = await http(f"{REST}{word.path}", headers={"Accept": "application/json"})
            except OSError:
                await asyncio.sleep(0.1)
            else:
                return wire.Told(code=answer.status, body=answer.body)
        return wire.Told(error="nothing listens", code=-1)

    async def look(self, _: wire.Look) -> wire.Told:
        running = {name: _memory(child.pid) for name, child in self._children.items() if child.poll() is None}
        run = self._root / "run"
        files = sorted(
            f"/run/{path.relative_to(run)}" for path in run.rglob("*") if "kata-extensions" not in path.parts
        )
        log = (self._root.parent / "console.log").read_text(errors="replace")
        own = Path("/proc/self/ns/mnt").stat().st_ino
        seen = [Path(f"/proc/{self._children[name].pid}/ns/mnt").stat().st_ino for name in running]
        count = self._kbs.counters["attest"]
        return wire.Told(running=running, mounts=set(seen) <= {own}, attestations=count, files=files, log=log)

    async def signal(self, word: wire.Signal) -> wire.Told:
        child = self._children[word.name]
        child.send_signal(word.number)
        return wire.Told(code=await asyncio.to_thread(child.wait, 20))

    async def relaunch(self, word: wire.Relaunch) -> wire.Told:
        await self._launch(self._plan[word.name])
        return self._told

    def end(self) -> None:
        for child in self._children.values():
            child.kill()
            child.wait()


def _most() -> int:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[0], NOFILE))
    except (PermissionError, ValueError):
        return before[1]
    return NOFILE


def _memory(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS"))


def arrange(root: Path, machine: SimulatedGuest) -> None:
    """The guest's kernel: a read-only root, /proc, /dev, /run, and /sys as the simulated machine has it."""
    outside = root.parent
    for name, content in (("hosts", ""), ("cmdline", ""), ("resolv.conf", "")):
        (outside / name).write_text(content)

    def mount(*words: str) -> None:
        subprocess.run(["mount", *words], check=True)

    mount("--bind", str(root), str(root))
    mount("-o", "remount,bind,ro", str(root))
    mount("-t", "proc", "proc", str(root / "proc"))
    mount("--rbind", "/dev", str(root / "dev"))
    mount("--rbind", f"{machine.sysroot}/sys", str(root / "sys"))
    mount("-t", "tmpfs", "-o", "mode=755", "run", str(root / "run"))
    mount("--bind", str(outside / "cmdline"), str(root / "proc/cmdline"))
    for name in ("hosts", "resolv.conf"):
        mount("--bind", str(outside / name), str(root / "etc" / name))
    extension = outside / "extension.erofs"
    if extension.exists():
        (root / "run/kata-extensions/coco").mkdir(parents=True)
        mount("-t", "erofs", "-o", "ro,loop", str(extension), str(root / "run/kata-extensions/coco"))


async def serve(root: Path, digest: bytes) -> None:
    """Obey words until there are no more."""
    async with guest("snp", digest) as machine:
        arrange(root, machine)
        kbs = DevKbs(Settings(roots=machine.roots))
        kbs.put("default/key/1", b"late secret")
        for name, content in json.loads((root.parent / "resources.json").read_text()).items():
            kbs.put(name, content.encode())
        agent = KataAgent(root, kbs)
        try:
            while line := await asyncio.to_thread(sys.stdin.readline):
                word = msgspec.json.decode(line, type=wire.Word)
                answer = await _obey(agent, word)
                sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
                sys.stdout.buffer.flush()
        finally:
            agent.end()
            await kbs.stop()
            # The simulated machine takes its interfaces away next, and nobody may hold them.
            _umount(root / "sys")


def _umount(folder: Path) -> None:
    subprocess.run(["umount", "--recursive", "--lazy", str(folder)], check=False)


async def _obey(agent: KataAgent, word: wire.Word) -> wire.Told:
    try:
        told: wire.Told = await getattr(agent, type(word).__name__.lower())(word)
    except AgentEndError as end:
        return wire.Told(error=str(end), code=-1)
    return told


def main() -> None:
    """Arguments: the root folder, HOSTDATA in hexadecimal."""
    allowed = int(_NR_OPEN.read_text())
    try:
        # systemd does this at boot; the number belongs to the whole machine.
        _NR_OPEN.write_text(str(max(allowed, NOFILE)))
        asyncio.run(serve(Path(sys.argv[1]), bytes.fromhex(sys.argv[2])))
    finally:
        _NR_OPEN.write_text(str(allowed))


if __name__ == "__main__":
    # Nobody else's signal ends the first process of a namespace half-way.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main()
