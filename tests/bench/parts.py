"""What is measured, one function a part. Each brings up what it needs and takes it down again."""

from __future__ import annotations

import asyncio
import logging
import statistics
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.devkit import demo
from agent.devkit.kbs import DevKbs
from tests.bench import agent as programs
from tests.bench import bundle as programs_in_image
from tests.bench import material, rest
from tests.bench.agent import cpu_seconds, memory_mb
from tests.bench.attack.run import attacks
from tests.bench.children import BenchError, Child, child
from tests.bench.figures import Figures, median_ratio
from tests.bench.inside import CALLERS, gap, profile
from tests.bench.layers import layers
from tests.bench.nginx import against_nginx
from tests.bench.vm import virtual_machine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.bench.plan import Plan

CONNECTIONS: Final = (1, 16, 64)
BURST: Final = 1000


@dataclass(frozen=True, slots=True)
class Bench:
    """One run.

    Attributes:
        folder: material and helper files.
        kbs: the broker's process.
        kbs_url: where it listens.
        plan: how long to measure.
        figures: results go here.
        agent_cpu: the processor of the agent.
        load_cpu: the processor of callers and broker.
        checkout: whose agent is measured, with an environment in ``.venv``; this one's by default.
    """

    folder: Path
    kbs: Child
    kbs_url: str
    plan: Plan
    figures: Figures
    agent_cpu: int | None
    load_cpu: int | None
    checkout: Path | None = None

    @property
    def environment(self) -> Path:
        """Where Python and ``coco-agent`` are."""
        return self.checkout / ".venv/bin" if self.checkout is not None else Path(sys.executable).parent

    @property
    def command(self) -> tuple[str, ...]:
        """How the agent is started."""
        return (str(self.environment / "coco-agent"),)

    @asynccontextmanager
    async def agent(self, *, cache: bool = False) -> AsyncIterator[programs.Agent]:
        """A fresh agent program."""
        with tempfile.TemporaryDirectory(prefix="coco-bench-") as name:
            folder = Path(name).resolve()
            async with programs.agent(
                folder, self.kbs_url, cache=cache, cpu=self.agent_cpu, command=self.command
            ) as running:
                yield running

    @asynccontextmanager
    async def calls(self, socket: str, cpu: int | None = None) -> AsyncIterator[Child]:
        """A ttrpc load generator."""
        async with child("calls", socket, str(self.folder), cpu=cpu) as loader:
            await loader.read()
            yield loader

    @asynccontextmanager
    async def guest(self, folder: Path) -> AsyncIterator[Child]:
        """A daemon with a slow quote."""
        root = (str(self.folder / "root.pem"),) if self.kbs_url.startswith("https:") else ()
        log = folder / "guest.log"
        async with child(
            "guest", str(folder), self.kbs_url, *root, log=log, checkout=self.checkout
        ) as running:
            await running.read()
            yield running


@asynccontextmanager
async def bench(
    plan: Plan, figures: Figures, cpus: tuple[int | None, int | None], checkout: Path | None = None
) -> AsyncIterator[Bench]:
    """Make the material and start the broker."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coco-bench-"))).resolve()
        material.write(folder, *material.make())
        kbs = await stack.enter_async_context(child("broker", str(folder), cpu=cpus[1]))
        url = (await kbs.read())["url"]
        yield Bench(folder, kbs, url, plan, figures, *cpus, checkout)


# --- start and memory ---------------------------------------------------------------------------
async def start(run: Bench) -> None:
    """Exec to listening, and memory after the demo's requests."""
    wall, cpu = [], []
    for _ in range(run.plan.starts):
        async with run.agent() as running:
            wall.append(running.listen_s)
            cpu.append(running.listen_cpu_s)
    run.figures.put("listen_s", statistics.median(wall))
    run.figures.put("listen_cpu_s", statistics.median(cpu))
    run.figures.put("modules_at_start", modules_at_start(run))
    await memory(run)


async def memory(run: Bench) -> None:
    """Memory after the start and after the demo's requests."""
    logging.disable(logging.WARNING)  # the broker's own warning that it protects nothing
    async with DevKbs() as kbs:
        wanted = demo.prepare(kbs)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name).resolve()
            async with programs.agent(folder, kbs.url, command=run.command) as running:
                run.figures.put("rss_mb_idle", memory_mb(running.pid)[0])
                await demo.steps(running.rest, folder, wanted, demo.Printer(quiet=True))
                rss, pss = memory_mb(running.pid)
                run.figures.put("rss_mb", rss)
                run.figures.put("pss_mb", pss)


def modules_at_start(run: Bench) -> int:
    """How many modules the daemon's start path imports."""
    done = subprocess.run(
        [run.environment / "python", "-c", "import sys, agent.cli.run; print(len(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=run.checkout,
    )
    return int(done.stdout)


async def cold(run: Bench) -> None:
    """1 000 callers at once, cold."""
    async with run.agent() as running:
        await run.kbs.ask("reset")
        await rest.burst(_hot(running), BURST, material.HOT_VALUE)
        counted = await run.kbs.ask("counters")
        run.figures.put("cold_1000_attestations", counted["attest"])
        run.figures.put("cold_1000_kbs_requests", counted["requests"])
        run.figures.put("rss_mb_after_burst", memory_mb(running.pid)[0])


# --- REST and ttrpc under load ------------------------------------------------------------------
async def over_rest(run: Bench) -> None:
    """GET by wrk: from the cache, with a held token, and cold."""
    for state in ("cached", "warm"):
        async with run.agent(cache=state == "cached") as running:
            await rest.get(_hot(running))

            paths = [f"/cdh/resource/{path}" for path in _asked(state)]

            async def load(count: int, url: str = running.rest, paths: list[str] = paths) -> dict[str, Any]:
                return await rest.wrk(url, paths, count, run.plan.load_s, run.load_cpu)

            asked = await _levels(run, f"rest_{state}", running.pid, load)
            if state == "cached":
                run.figures.put("audit_lines_lost", max(0, asked - await _audited(running.log)))

    async def once(running: programs.Agent, count: int) -> float:
        return await rest.burst(_hot(running), count, material.HOT_VALUE)

    await _cold(run, "rest", once)


async def over_ttrpc(run: Bench) -> None:
    """The same by GetResource, N calls in flight on one connection."""
    for state in ("cached", "warm"):
        async with (
            run.agent(cache=state == "cached") as running,
            run.calls(running.hub, run.load_cpu) as loader,
        ):
            await loader.ask("once", callers=1)

            paths = _asked(state)

            async def load(count: int, by: Child = loader, paths: tuple[str, ...] = paths) -> dict[str, Any]:
                return await by.ask("load", callers=count, seconds=run.plan.load_s, paths=paths)

            await _levels(run, f"ttrpc_{state}", running.pid, load)

    async def once(running: programs.Agent, count: int) -> float:
        async with run.calls(running.hub, run.load_cpu) as loader:
            seconds: float = (await loader.ask("once", callers=count))["seconds"]
            return seconds

    await _cold(run, "ttrpc", once)


async def _levels(run: Bench, name: str, pid: int, load: Callable[[int], Awaitable[dict[str, Any]]]) -> int:
    """Measure at each width; how many requests were answered."""
    asked = 0
    for count in CONNECTIONS:
        before = cpu_seconds(pid)
        seen = await load(count)
        asked += int(seen["requests"])
        if count == 16:
            run.figures.put(f"{name}_cpu_us", (cpu_seconds(pid) - before) / seen["requests"] * 1e6)
        for what in ("rps", "p50_ms", "p99_ms"):
            run.figures.put(f"{name}_c{count}_{what}", seen[what])
    return asked


def _asked(state: str) -> tuple[str, ...]:
    return (material.HOT,) if state == "cached" else material.WARM


async def _audited(log: Path) -> int:
    """Audit lines of resources handed out, once the writer has caught up."""
    await asyncio.sleep(0.2)
    with log.open("rb") as lines:
        return sum(1 for line in lines if b'"coco.audit"' in line and b'"get_resource"' in line)


async def _cold(run: Bench, api: str, once: Callable[[programs.Agent, int], Awaitable[float]]) -> None:
    for count in CONNECTIONS:
        times = []
        for _ in range(run.plan.colds if count == 1 else max(1, run.plan.colds // 2)):
            async with run.agent() as running:
                times.append(await once(running, count))
        key = f"{api}_cold_ms" if count == 1 else f"{api}_cold_c{count}_ms"
        run.figures.put(key, statistics.median(times) * 1000)


def _hot(running: programs.Agent) -> str:
    return f"{running.rest}/cdh/resource/{material.HOT}"


# --- the boot of a pod --------------------------------------------------------------------------
async def boot(run: Bench) -> None:
    """The agent and upstream's cost model by turns, against one broker."""
    plan = run.plan
    async with _sides(run) as sides:
        await sides.count()
        await sides.compare("boot", 0.02, plan.boots, plan.boots)
        await sides.compare("boot_0ms", 0.0, plan.other_boots, plan.other_boots)
        await sides.compare("boot_1000ms", 1.0, 1, plan.other_boots)
        await sides.compare_parallel_quotes(plan.boots)
        await sides.compare_each()
    async with child("broker", str(run.folder), "tls", cpu=run.load_cpu) as kbs:
        url = (await kbs.read())["url"]
        async with _sides(replace(run, kbs=kbs, kbs_url=url)) as sides:
            await sides.compare("boot_tls", 0.02, plan.other_boots, plan.boots)


async def boot_at_20ms(run: Bench) -> None:
    """The boot with a quote of 20 ms and nothing else."""
    async with _sides(run) as sides:
        await sides.compare("boot", 0.02, run.plan.boots, run.plan.boots)


@asynccontextmanager
async def _sides(run: Bench) -> AsyncIterator[_Sides]:
    with tempfile.TemporaryDirectory(prefix="coco-bench-") as name:
        folder = Path(name).resolve()
        async with (
            run.guest(folder) as guest,
            run.calls(str(folder / "cdh.sock")) as calls,
            child("upstream", run.kbs_url, str(run.folder)) as upstream,
        ):
            await upstream.read()
            sides = _Sides(run, guest, calls, upstream)
            await sides.ours(0.0, 1)  # first use of everything, not counted
            yield sides


@dataclass(frozen=True, slots=True)
class _Sides:
    run: Bench
    guest: Child
    calls: Child
    upstream: Child

    async def compare(self, name: str, latency: float, alone: int, together: int) -> None:
        """Time both sides ``alone`` times with 1 caller, ``together`` times with 64 that share the boot."""
        figures = self.run.figures
        for callers, infix, repeats in ((1, "", alone), (CALLERS, "_64", together)):
            pairs = []
            for _ in range(repeats):
                ours, _ = await self.ours(latency, callers)
                theirs, _ = await self.theirs(latency, callers)
                pairs.append((ours, theirs))
            figures.put(f"{name}{infix}_s", statistics.median(ours for ours, _ in pairs))
            figures.put(f"{name}{infix}_upstream_s", statistics.median(theirs for _, theirs in pairs))
            ratio = f"{name}_ratio_64" if infix else f"{name}_ratio_vs_upstream_model"
            figures.put(ratio, median_ratio(pairs))

    async def count(self) -> None:
        """What both sides ask of the broker; times do not matter here."""
        figures = self.run.figures
        for callers, infix in ((1, ""), (CALLERS, "_64")):
            _, ours = await self.ours(0.0, callers)
            figures.put("boot_attestations", ours["attest"])
            figures.put(f"boot{infix}_kbs_requests", ours["requests"])
        _, theirs = await self.theirs(0.0, CALLERS)
        if theirs["attest"] != material.UPSTREAM_ATTESTATIONS:
            raise BenchError(f"the model made {theirs['attest']} attestations")
        figures.put("boot_upstream_attestations", theirs["attest"])
        figures.put("boot_upstream_kbs_requests", theirs["requests"])

    async def compare_parallel_quotes(self, repeats: int) -> None:
        """64 callers on a device that makes any number of quotes at once, which none does."""
        pairs = []
        for _ in range(repeats):
            ours, _ = await self.ours(0.02, CALLERS)
            theirs, _ = await self.theirs(0.02, CALLERS, serial=False)
            pairs.append((ours, theirs))
        self.run.figures.put("boot_ratio_64_parallel_quotes", median_ratio(pairs))

    async def compare_each(self) -> None:
        """64 callers, each of which asks for the whole boot; once, because the model takes its time."""
        ours, counted = await self.ours(0.02, CALLERS, each=True)
        theirs, _ = await self.theirs(0.02, CALLERS, each=True, serial=False)
        figures = self.run.figures
        figures.put("boot_each_s", ours)
        figures.put("boot_each_upstream_s", theirs)
        figures.put("boot_each_ratio", theirs / ours)
        figures.put("boot_each_attestations", counted["attest"])
        figures.put("boot_each_kbs_requests", counted["requests"])

    async def ours(self, latency: float, callers: int, *, each: bool = False) -> tuple[float, dict[str, Any]]:
        """Seconds from the first question to the last answer of a cold agent, and the broker's counters."""
        await self.guest.ask("fresh", latency=latency)
        await self.run.kbs.ask("reset")
        seconds: float = (await self.calls.ask("boot", callers=callers, each=each))["seconds"]
        return seconds, await self.run.kbs.ask("counters")

    async def theirs(
        self, latency: float, callers: int, *, each: bool = False, serial: bool = True
    ) -> tuple[float, dict[str, Any]]:
        """The model's. With a slow quote a fifth of it is played and the time scaled."""
        every = 5 if latency >= 1 else 1
        await self.run.kbs.ask("reset")
        played = await self.upstream.ask(
            "boot", latency=latency, callers=callers, every=every, each=each, serial=serial
        )
        counted = await self.run.kbs.ask("counters")
        scale = 1.0 if every == 1 else material.UPSTREAM_ATTESTATIONS / counted["attest"]
        return played["seconds"] * scale, counted


# --- all of them -----------------------------------------------------------------------------------
async def bundle(run: Bench) -> list[str]:
    """The extension image and its programs."""
    return await programs_in_image.bundle(run.figures, run.plan.starts)


PARTS: Final[dict[str, Callable[[Bench], Awaitable[list[str] | None]]]] = {
    "start": start,
    "cold": cold,
    "rest": over_rest,
    "nginx": against_nginx,
    "ttrpc": over_ttrpc,
    "boot": boot,
    "gap": gap,
    "attack": attacks,
    "profile": profile,
    "layers": layers,
    "bundle": bundle,
    "vm": virtual_machine,
}
