"""Measure builds of ``coco-agent`` against each other; behind the table of docs/adr/0009-the-bundle.md."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rootfs import files, image
from rootfs.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RUNS: Final = 9
_PATIENCE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One build.

    Attributes:
        tree_bytes: of all its files.
        erofs_bytes: of an erofs of them, made as the image is.
        socket_s: exec until the attester's socket is there, warm; the best of ``RUNS``.
        ready_s: exec until all of it is loaded and serves; the best of ``RUNS``.
        cpu_s: processor time by then; the least of ``RUNS``.
        rss_mb: resident memory then, in MB of 10**6 bytes.
    """

    tree_bytes: int
    erofs_bytes: int
    socket_s: float
    ready_s: float
    cpu_s: float
    rss_mb: float


def measure(builds: Sequence[tuple[Path, Path]]) -> list[Measured]:
    """Start ``program serve`` of each build in turn, ``RUNS`` times: what else runs meets all alike.

    Args:
        builds: a ``coco-agent``, and the folder with all that comes with it.

    Raises:
        BuildError: one does not start.
    """
    with tempfile.TemporaryDirectory(prefix="coco-compare-") as name:
        folder = Path(name).resolve()
        images = [image.make_erofs(tree, folder / "erofs") for _, tree in builds]
        rounds = [[_start(program, folder) for program, _ in builds] for _ in range(RUNS)]
    found = []
    for number, (_, tree) in enumerate(builds):
        least = [min(column) for column in zip(*(one[number] for one in rounds), strict=True)]
        found.append(Measured(files.size(tree), images[number], *least))
    return found


def _start(program: Path, folder: Path) -> tuple[float, float, float, float]:
    aa, told = folder / "aa.sock", folder / "notify"
    for path in (aa, told):
        path.unlink(missing_ok=True)
    (folder / "cdh.toml").write_text(
        f'socket = "unix://{folder}/cdh.sock"\n[kbc]\nname = "cc_kbc"\nurl = ""\n'
    )
    (folder / "agent.toml").write_text(f'[control]\nsocket = "unix://{folder}/control.sock"\n')
    options = ("--cdh-config", f"{folder}/cdh.toml", "--agent-config", f"{folder}/agent.toml")
    sockets = ("--attestation-sock", f"unix://{aa}", "--bind", "127.0.0.1:0")
    environment = {"PATH": "/usr/bin:/bin", "NOTIFY_SOCKET": str(told)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(told))
        manager.settimeout(_PATIENCE)
        begin = time.perf_counter()
        with subprocess.Popen(  # noqa: S603  # the caller named the program
            [program, "serve", *options, *sockets], stderr=subprocess.DEVNULL, env=environment
        ) as process:
            try:
                for _ in _polls():
                    if aa.exists():
                        break
                    if process.poll() is not None:
                        raise BuildError(f"{program} ended with status {process.returncode}")
                listens = time.perf_counter() - begin
                # The socket comes before the rest is loaded; READY after it.
                manager.recv(256)
                ready = time.perf_counter() - begin
                return listens, ready, _cpu(process.pid), _resident(process.pid)
            finally:
                process.terminate()


def _polls() -> Iterator[None]:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        yield
        time.sleep(0.001)
    raise BuildError(f"no socket after {_PATIENCE:.0f} s")


def _cpu(pid: int) -> float:
    used = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # the thread ended meanwhile
            used += int((task / "schedstat").read_text().split()[0])
    return used / 1e9


def _resident(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS:"))
