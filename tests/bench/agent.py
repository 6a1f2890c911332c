"""The real program, ``coco-agent serve``, pinned to one processor, and what /proc says about it."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent.config.model import Cache, CacheRule
from tests.bench.children import BenchError, pinned

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from agent.config.model import Hub

RULE = CacheRule("*/*/*", ttl=3600)


def cached(hub: Hub) -> Hub:
    """The hub with every resource kept."""
    return replace(hub, cache=Cache(rules=(RULE,)))


@dataclass(frozen=True, slots=True)
class Agent:
    """A running agent.

    Attributes:
        rest: base URL.
        hub: path of the hub's socket.
        pid: of the program.
        log: its standard error.
        listen_s: seconds from exec until all sockets listened.
        listen_cpu_s: processor seconds by then.
    """

    rest: str
    hub: str
    pid: int
    log: Path
    listen_s: float
    listen_cpu_s: float


@asynccontextmanager
async def agent(
    folder: Path,
    kbs_url: str,
    *,
    cache: bool = False,
    cpu: int | None = None,
    command: Sequence[str] = (),
    sample: bool = True,
) -> AsyncIterator[Agent]:
    """Run it with sockets in ``folder``; yields when all of them listen.

    Args:
        folder: sockets, configuration, log.
        kbs_url: the broker.
        cache: whether every resource is kept.
        cpu: the processor to run on.
        command: how to start another build of ``coco-agent``; this environment's by default.
        sample: whether it may make sample evidence.
    """
    port = _free_port()
    _configure(folder, kbs_url, cache=cache, sample=sample)
    begin = time.perf_counter()
    with (folder / "agent.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *pinned(cpu, *(command or (str(Path(sys.executable).with_name("coco-agent")),))),
            "serve",
            *("--aa-config", str(folder / "aa.toml")),
            *("--cdh-config", str(folder / "cdh.toml")),
            *("--agent-config", str(folder / "agent.toml")),
            *("--attestation-sock", f"unix://{folder}/aa.sock"),
            *("--bind", f"127.0.0.1:{port}", "--features", "all"),
            stderr=log,
        )
    try:
        await _listening(process, folder, port)
        listen_s, cpu_s = time.perf_counter() - begin, cpu_seconds(process.pid)
        url, hub, written = f"http://127.0.0.1:{port}", str(folder / "cdh.sock"), folder / "agent.log"
        yield Agent(url, hub, process.pid, written, listen_s, cpu_s)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _configure(folder: Path, kbs_url: str, *, cache: bool, sample: bool) -> None:
    rules = f'[cache]\nrules = [{{ pattern = "{RULE.pattern}", ttl = {RULE.ttl} }}]\n' if cache else ""
    control = f'[control]\nsocket = "unix://{folder}/control.sock"\n'
    texts = {
        "aa.toml": f'[token_configs.kbs]\nurl = "{kbs_url}"\n',
        "cdh.toml": f'socket = "unix://{folder}/cdh.sock"\n[kbc]\nname = "cc_kbc"\nurl = "{kbs_url}"\n',
        "agent.toml": f"[attester]\nallow_sample = {str(sample).lower()}\n{control}{rules}",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def _listening(program: asyncio.subprocess.Process, folder: Path, port: int) -> None:
    for _ in range(5000):
        if program.returncode is not None:
            raise BenchError(f"the agent ended early:\n{(folder / 'agent.log').read_text()}")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)  # opened last of all sockets
        except OSError:
            await asyncio.sleep(0.002)
            continue
        writer.close()
        return
    raise BenchError("the agent does not listen after 10 s")


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads so far (schedstat: nanoseconds)."""
    used = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # it ended meanwhile
            used += int((thread / "schedstat").read_text().split()[0])
    return used / 1e9


def memory_mb(pid: int) -> tuple[float, float]:
    """RSS and PSS in MB of 10**6 bytes. The agent is not dumpable, so PSS takes root; 0 without."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except PermissionError:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = {line.split()[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines if line.endswith("kB")}
    return sizes.get("Rss:", sizes.get("VmRSS:", 0.0)), sizes.get("Pss:", 0.0)
