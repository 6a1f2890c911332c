"""``make bench``: start time, memory, and what one attestation buys. Figures only: machines differ."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agent.clock import Deadline, SystemClock
from agent.devkit import demo
from agent.devkit.kbs import DevKbs
from agent.serve.ttrpc.remote import RemoteHub

STARTS = 7
GETS = 1000
CALLS = 2000
BUDGET_START_MS = 800.0
BUDGET_RSS_MB = 60.0


def rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("no VmRSS")


def child_pid() -> int:
    tasks = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return next(int(pid) for pid in tasks if b"serve" in Path(f"/proc/{pid}/cmdline").read_bytes())


async def start_times(kbs_url: str) -> tuple[list[float], list[float]]:
    """Milliseconds from exec to all sockets listening, and CPU milliseconds used by then."""
    wall, cpu = [], []
    for _ in range(STARTS):
        with tempfile.TemporaryDirectory() as name:
            begin = time.perf_counter()
            async with demo.agent_program(Path(name).resolve(), kbs_url):
                wall.append((time.perf_counter() - begin) * 1000)
                fields = Path(f"/proc/{child_pid()}/stat").read_text().rsplit(")", 1)[1].split()
                ticks = int(fields[11]) + int(fields[12])
                cpu.append(ticks * 1000 / os.sysconf("SC_CLK_TCK"))
    return wall, cpu


async def http_get(url: str) -> int:
    """One GET on a connection of its own; the status."""
    host, _, path = url.removeprefix("http://").partition("/")
    address, _, port = host.partition(":")
    reader, writer = await asyncio.open_connection(address, int(port))
    writer.write(f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1])


async def cold_burst(rest: str, kbs: DevKbs) -> dict[str, int]:
    statuses = await asyncio.gather(*(http_get(f"{rest}/cdh/resource/{demo.RESOURCE}") for _ in range(GETS)))
    if set(statuses) != {200}:
        raise RuntimeError(f"statuses {set(statuses)}")
    return {name: kbs.counters[name] for name in ("auth", "attest", "resource")}


async def latency(hub: RemoteHub) -> tuple[float, float]:
    """Microseconds, median and 99th percentile, of a warm uncached GetResource, one at a time."""
    soon = Deadline.after(SystemClock(), 300)
    times = []
    for _ in range(CALLS // 4):
        begin = time.perf_counter()
        await hub.get_resource(f"kbs:///{demo.RESOURCE}", soon)
        times.append((time.perf_counter() - begin) * 1e6)
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def modules_at_start() -> int:
    """How many modules the daemon's start path imports."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys, agent.cli.run; print(len(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


async def run() -> dict[str, object]:
    figures: dict[str, object] = {}
    async with DevKbs() as kbs:
        wall, cpu = await start_times(kbs.url)
        figures["start_ms_median"] = round(statistics.median(wall))
        figures["start_ms_min_max"] = [round(min(wall)), round(max(wall))]
        figures["start_cpu_ms_median"] = round(statistics.median(cpu))
        figures["modules_at_start"] = modules_at_start()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name).resolve()
            material = demo.prepare(kbs)
            async with demo.agent_program(folder, kbs.url) as rest:
                figures["rss_mb_idle"] = round(rss_mb(child_pid()), 1)
                await demo.steps(rest, folder, material, demo.Printer(quiet=True))
                figures["rss_mb_after_demo"] = round(rss_mb(child_pid()), 1)
                before = kbs.counters["resource"]
                hub = RemoteHub(f"unix://{folder}/cdh.sock")
                p50, p99 = await latency(hub)
                await hub.close()
                figures["warm_get_kbs_requests"] = (kbs.counters["resource"] - before) / (CALLS // 4)
                figures["warm_get_us_p50_p99"] = [round(p50), round(p99)]
    async with DevKbs() as kbs:
        demo.prepare(kbs)
        with tempfile.TemporaryDirectory() as name:
            async with demo.agent_program(Path(name).resolve(), kbs.url) as rest:
                figures[f"cold_{GETS}_gets_kbs_requests"] = await cold_burst(rest, kbs)
                figures["rss_mb_after_burst"] = round(rss_mb(child_pid()), 1)
    return figures


def main() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    figures = asyncio.run(run())
    if "--json" in sys.argv[1:]:
        print(json.dumps(figures, indent=2))
        return 0
    for name, value in figures.items():
        print(f"{name:<32} {value}")
    print(f"\nbudgets: start {BUDGET_START_MS:.0f} ms, RSS after the demo's requests {BUDGET_RSS_MB:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
